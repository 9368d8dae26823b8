# SPDX-License-Identifier: Apache-2.0
"""The adaptive norm against its formula."""

import torch

from diffnext.models.normalization import AdaptiveNorm
from tests.models.tiny import randomize


def test_scale_shift_and_gate():
    norm = randomize(AdaptiveNorm(8, 6, num_stats=3))
    x, z = 1e-3 * torch.randn(2, 5, 8), torch.randn(2, 1, 6)  # a variance near the 1e-6
    stats = z @ norm.proj.weight.T + norm.proj.bias
    centred = x - x.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    found, gate = norm(x, z)
    torch.testing.assert_close(found, normal * (1 + stats[..., :8]) + stats[..., 8:16])
    torch.testing.assert_close(gate, stats[..., 16:])


def test_a_bottleneck_and_no_norm():
    norm = randomize(AdaptiveNorm(8, 6, rank=2, normalize=False))
    x, z = torch.randn(2, 5, 8), torch.randn(2, 5, 6)
    stats = z @ norm.lora.weight.T @ norm.proj.weight.T + norm.proj.bias
    torch.testing.assert_close(norm(x, z)[0], x * (1 + stats[..., :8]) + stats[..., 8:])
    assert norm.lora.bias is None
