# SPDX-License-Identifier: Apache-2.0
"""Encoder blocks against the formula; heads by width."""

import pytest
import torch
from torch.nn import functional as F

from diffnext.models.vision_transformer import Block, VisionTransformer, num_heads
from tests.models.tiny import randomize


@pytest.mark.parametrize(
    ("width", "heads"), [(32, 1), (64, 1), (192, 3), (768, 12), (1024, 16), (1536, 16)]
)
def test_heads(width, heads):
    assert num_heads(width) == heads


def test_a_width_that_heads_do_not_divide():
    with pytest.raises(ValueError, match="width 200"):
        num_heads(200)


def test_a_block_adds_normed_branches():
    block = randomize(Block(32, 2))
    for last in (block.attn.proj, block.mlp.fc2):  # branches with a variance near the 1e-5
        for parameter in last.parameters():
            parameter.data.mul_(3e-3)
    x = torch.randn(2, 5, 32)
    y = x + F.layer_norm(block.attn(x), (32,), block.norm1.weight, block.norm1.bias, 1e-5)
    hidden = y @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    hidden = hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    wanted = y + F.layer_norm(hidden, (32,), block.norm2.weight, block.norm2.bias, 1e-5)
    torch.testing.assert_close(block(x), wanted)


def test_only_the_last_block_leaves_tokens_out():
    encoder = randomize(VisionTransformer(3, 32, channels=4, patch=2))
    x = torch.randn(2, 6, 32)
    torch.testing.assert_close(encoder.run(x, skip=4), encoder.run(x)[:, 4:])
    halves = encoder.run(encoder.run(x, stop=2), start=2)
    torch.testing.assert_close(halves, encoder.run(x))
