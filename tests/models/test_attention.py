# SPDX-License-Identifier: Apache-2.0
"""Attention against the formula, written out; and the cache against no cache."""

import pytest
import torch

from diffnext.models.attention import Attention, KVCache, sdpa
from tests.models.tiny import randomize

BLOCKS = [5, 3, 3]


def written_out(q, k, v, blocks):
    """Softmax attention, one query at a time over the keys that it may see."""
    ends = [
        end
        for end, n in zip(torch.tensor(blocks).cumsum(0).tolist(), blocks, strict=True)
        for _ in range(n)
    ]
    first = k.size(2) - q.size(2)
    out = torch.zeros_like(q)
    for i in range(q.size(2)):
        seen = ends[first + i]
        scores = (k[:, :, :seen] @ q[:, :, i, :, None]).squeeze(-1) / q.size(-1) ** 0.5
        out[:, :, i] = (scores.softmax(-1).unsqueeze(-1) * v[:, :, :seen]).sum(2)
    return out


@pytest.mark.parametrize("skip", [0, 2, 5, 7])
def test_a_block_sees_itself_and_those_before(skip):
    q, k, v = torch.randn(3, 2, 2, sum(BLOCKS), 16).unbind(0)
    found = sdpa(q[:, :, skip:], k, v, blocks=BLOCKS)
    torch.testing.assert_close(found, written_out(q[:, :, skip:], k, v, BLOCKS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_blocks_all_is_seen(dtype):
    q, k, v = torch.randn(3, 2, 2, 6, 16, dtype=dtype).unbind(0)
    torch.testing.assert_close(sdpa(q, k, v), written_out(q, k, v, [6]))  # float64 to 1e-7


def test_a_cache_gives_what_all_tokens_at_once_give():
    attention = randomize(Attention(32, 2))
    x = torch.randn(2, sum(BLOCKS), 32)
    cache = KVCache(1).layers[0]
    parts = [attention(part, cache=cache) for part in x.split(BLOCKS, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), attention(x, blocks=BLOCKS))


def test_skipped_tokens_are_still_seen():
    attention = randomize(Attention(32, 2))
    x = torch.randn(2, 6, 32)
    torch.testing.assert_close(attention(x, skip=4), attention(x)[:, 4:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [6, 70])
def test_half_precision_differs_by_its_rounding(tokens, dtype):
    q, k, v = torch.randn(3, 2, 2, tokens, 16).to(dtype).unbind(0)
    q.requires_grad_()
    found = sdpa(q, k, v)
    (grad,) = torch.autograd.grad(found.sum(), q)
    exact = q.detach().float().requires_grad_()
    wanted = written_out(exact, k.float(), v.float(), [tokens])
    (wanted_grad,) = torch.autograd.grad(wanted.sum(), exact)
    assert found.dtype == dtype
    rounding = {"rtol": 0, "atol": 4 * torch.finfo(dtype).eps * v.abs().max().item()}
    torch.testing.assert_close(found.float(), wanted, **rounding)
    torch.testing.assert_close(grad.float(), wanted_grad, **rounding)
