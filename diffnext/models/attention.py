# SPDX-License-Identifier: Apache-2.0
"""Self-attention: the one place that calls an attention kernel.

Letters: B batch, N token, D width, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffnext.models.embeddings import Rotary, rotate

SHORT = 64  # tokens
HALF = (torch.bfloat16, torch.float16)


def sdpa(q: Tensor, k: Tensor, v: Tensor, *, blocks: Sequence[int] | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v with no mask in memory.

    Args:
        q: (B, heads, M, d), the last M of the N tokens that k and v hold.
        k, v: (B, heads, N, d).
        blocks: lengths, N in sum, of blocks that see themselves and all blocks before them
            (block-causal). None: every token sees every token.

    Returns:
        (B, heads, M, d).
    """
    if blocks is None:
        return _sdpa(q, k, v)
    first = k.size(2) - q.size(2)
    outputs, start, end = [], first, 0
    for length in blocks:
        end += length
        if end > start:
            q_block = q[:, :, start - first : end - first]
            outputs.append(_sdpa(q_block, k[:, :, :end], v[:, :, :end]))
            start = end
    return torch.cat(outputs, dim=2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """On a CPU, the fused kernel's backward in half precision takes several times as long as either way
    around it: plain products for few tokens, whose scores fit the cache, or float32.
    """
    if q.device.type != "cpu" or q.dtype not in HALF:
        return F.scaled_dot_product_attention(q, k, v)
    if q.dtype == torch.bfloat16 and k.size(2) <= SHORT:
        return (q * q.size(-1) ** -0.5 @ k.mT).softmax(-1) @ v
    return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


class LayerCache:
    """Keys and values that one layer has seen."""

    def __init__(self) -> None:
        self._seen: tuple[Tensor, Tensor] | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, heads, N, d) keys and values; return all of them."""
        if self._seen is not None:
            k = torch.cat([self._seen[0], k], dim=2)
            v = torch.cat([self._seen[1], v], dim=2)
        self._seen = (k, v)
        return k, v


class KVCache:
    """Keys and values of all layers of an encoder; made, passed along and dropped by the caller."""

    def __init__(self, num_layers: int) -> None:
        self.layers = [LayerCache() for _ in range(num_layers)]


class Attention(nn.Module):
    """Multi-head self-attention with a fused projection."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        *,
        rotary: Rotary | None = None,
        blocks: Sequence[int] | None = None,
        cache: LayerCache | None = None,
        skip: int = 0,
    ) -> Tensor:
        """Attend from the tokens after the first `skip` to all tokens.

        Args:
            x: (B, N, D).
            rotary: rotation of each of the N tokens.
            blocks: block-causal lengths, see `sdpa`.
            cache: earlier tokens of this layer, attended to and extended.
            skip: leading tokens whose output nobody needs.

        Returns:
            (B, N - skip, D).
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        qk, v = qkv.split([2, 1])
        if rotary is not None:
            qk = rotate(qk, rotary)
        (q, k), v = qk.unbind(0), v.squeeze(0)
        if cache is not None:
            k, v = cache.append(k, v)
        out = sdpa(q[:, :, skip:], k, v, blocks=blocks)
        return self.proj(out.transpose(1, 2).flatten(2))
