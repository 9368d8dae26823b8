# SPDX-License-Identifier: Apache-2.0
"""Patches, positions and conditions against formulas written out token by token."""

import cmath
import math

import pytest
import torch
from torch.nn import functional as F

from diffnext.models.embeddings import (
    LabelEmbed,
    MotionEmbed,
    PatchEmbed,
    TextEmbed,
    TimePosEmbed,
    grid_positions,
    patchify,
    rotary_positions,
    rotate,
    sin_cos,
    space_positions,
    unpatchify,
)
from tests.models.tiny import randomize
from tests.models.transfers import NOWHERE, Transfers


def test_a_token_is_row_column_channel_and_tokens_are_row_major():
    x = torch.randn(2, 3, 4, 6)
    tokens = patchify(x, 2)  # (2, 6, 12)
    for n in range(6):
        top, left = 2 * (n // 3), 2 * (n % 3)
        values = [x[1, c, top + i, left + j] for i in range(2) for j in range(2) for c in range(3)]
        assert torch.equal(tokens[1, n], torch.stack(values))


@pytest.mark.parametrize("shape", [(3, 4, 6), (2, 3, 4, 6), (2, 5, 3, 8, 4)])
def test_patches_go_back(shape):
    x = torch.randn(shape)
    assert torch.equal(unpatchify(patchify(x, 2), 2, *shape[-2:]), x)


def test_the_patch_embedding_is_a_convolution():
    embed = randomize(PatchEmbed(4, 16, 2))
    x = torch.randn(3, 4, 8, 6)
    wanted = F.conv2d(x, embed.proj.weight, embed.proj.bias, stride=2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(patchify(x, 2)), wanted)


def test_space_positions():
    found = space_positions((2, 3), 16, torch.device("cpu"))
    for h in range(2):
        for w in range(3):
            freqs = [10000 ** (-i / 4) for i in range(4)]
            angles = [[w * f for f in freqs], [h * f for f in freqs]]
            wanted = [g(a) for row in angles for g in (math.sin, math.cos) for a in row]
            torch.testing.assert_close(found[3 * h + w], torch.tensor(wanted))


def test_the_time_of_a_clip_of_any_length_spans_the_base():
    embed = randomize(TimePosEmbed(16, base_frames=3))
    torch.testing.assert_close(embed(torch.tensor([2]), 6), embed(torch.tensor([1]), 3))


def test_rotary_turns_pairs_by_position():
    x = torch.randn(1, 1, 6, 32)
    positions = grid_positions(torch.tensor([3]), (2, 3))  # (t, h, w)
    assert positions.tolist() == [[3, h, w] for h in range(2) for w in range(3)]
    found = rotate(x, rotary_positions(positions, 32))[0, 0]
    shares = [(axis, i, share) for axis, share in enumerate((4, 14, 14)) for i in range(share // 2)]
    for n, place in enumerate(positions.tolist()):
        for pair, (axis, i, share) in enumerate(shares):
            turn = cmath.exp(1j * place[axis] * 10000 ** (-2 * i / share))
            value = complex(*x[0, 0, n, 2 * pair : 2 * pair + 2].tolist()) * turn
            wanted = torch.tensor([value.real, value.imag])
            torch.testing.assert_close(found[n, 2 * pair : 2 * pair + 2], wanted)


def test_rotated_products_depend_on_the_difference_of_positions():
    q, k = torch.randn(2, 1, 1, 1, 32).unbind(0)

    def product(at, to):
        turned = [
            rotate(x, rotary_positions(torch.tensor([place]), 32))
            for x, place in ((q, at), (k, to))
        ]
        return (turned[0] * turned[1]).sum()

    # float32 angles of up to 9 radians
    torch.testing.assert_close(product([1, 2, 3], [2, 0, 7]), product([4, 4, 5], [5, 2, 9]))
    torch.testing.assert_close(product([0, 0, 0], [0, 0, 0]), (q * k).sum())


def test_heads_that_cannot_be_rotated():
    with pytest.raises(ValueError, match="width 20"):
        rotary_positions(torch.zeros(1, 3), 20)


def test_absent_text_is_filled_from_the_buffer_by_position():
    embed = randomize(TextEmbed(8, 16, 5))
    prompts = [torch.randn(3, 8), torch.zeros(0, 8), torch.randn(9, 8)]
    rows = [torch.cat([prompts[0], embed.weight[3:5]]), embed.weight[:5], prompts[2][:5]]
    wanted = F.layer_norm(embed.proj(torch.stack(rows)), (16,), embed.norm.weight, embed.norm.bias)
    torch.testing.assert_close(embed(prompts), wanted)
    torch.testing.assert_close(embed(*embed.pad(prompts)), wanted)


def test_states_of_the_host_go_to_the_device_in_one_copy():
    embed = TextEmbed(8, 16, 5).to(NOWHERE)
    with Transfers() as transfers:
        text, length = embed.pad([torch.randn(n, 8).half() for n in (3, 0, 9)])
    assert transfers.seen == [((3, 5, 8), True), ((3,), True)]
    assert text.device == length.device == NOWHERE and text.dtype == torch.float32


def test_states_of_several_types_are_padded_alike():
    embed = TextEmbed(8, 16, 5)
    prompts = [torch.randn(3, 8).half(), torch.randn(9, 8)]
    text, length = embed.pad(prompts)
    assert text.dtype == torch.float32 and length.tolist() == [3, 5]
    assert torch.equal(text[0, :3], prompts[0].float()) and torch.equal(text[1], prompts[1][:5])


def test_states_of_another_encoder():
    with pytest.raises(ValueError, match=r"prompt 1 has states of shape \(3, 9\)"):
        TextEmbed(8, 16, 5).pad([torch.randn(3, 8), torch.randn(3, 9)])


def test_more_text_than_there_are_positions():
    with pytest.raises(ValueError, match="text_token_len is 600"):
        TextEmbed(8, 16, 600)


def test_a_class_is_one_token():
    embed = randomize(LabelEmbed(10, 16))
    found = embed(torch.tensor([3, 10]))
    assert found.shape == (2, 1, 16)
    torch.testing.assert_close(found[1, 0], embed.norm(embed.weight[10]))


def test_motion_is_a_token_for_the_score_and_one_for_the_rate():
    embed = randomize(MotionEmbed(16))
    found = embed(torch.tensor([5.0, 3.0]), torch.tensor([12.0, 12.0]))
    angles = [3.0 * 10000 ** (-i / 128) for i in range(128)]
    wave = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    torch.testing.assert_close(sin_cos(torch.tensor(3.0)), wave)
    torch.testing.assert_close(found[1, 0], embed.flow_proj(wave))
    assert torch.equal(found[0, 1], found[1, 1])
