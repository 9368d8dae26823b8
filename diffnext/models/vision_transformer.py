# SPDX-License-Identifier: Apache-2.0
"""Transformer encoder of image tokens, residual post-norm.

Letters: B batch, N token, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diffnext.models.attention import Attention, KVCache, LayerCache
from diffnext.models.embeddings import PatchEmbed, Rotary
from diffnext.models.normalization import AdaptiveNorm


def num_heads(width: int) -> int:
    """Heads of an encoder: one for 64 of width, but 16 of 96 for width 1536 (published models)."""
    heads = 16 if width == 1536 else max(1, width // 64)
    if width % heads:
        raise ValueError(
            f"an encoder of width {width} cannot have {heads} heads; take a multiple of 64"
        )
    return heads


class MLP(nn.Module):
    """Two linear layers, exact GELU between."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + LN(attn(x)), then x + LN(mlp(x))."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)
        self.mlp = MLP(dim, 4 * dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        *,
        rotary: Rotary | None = None,
        blocks: Sequence[int] | None = None,
        cache: LayerCache | None = None,
        skip: int = 0,
        recompute: bool = False,
    ) -> Tensor:
        """(B, N, D) to (B, N - skip, D); see `Attention`. `recompute`: do not keep the MLP's inside."""
        attended = self.attn(x, rotary=rotary, blocks=blocks, cache=cache, skip=skip)
        x = x[:, skip:] + self.norm1(attended)
        if recompute:
            hidden = checkpoint(self.mlp, x, use_reentrant=False, preserve_rng_state=False)
        else:
            hidden = self.mlp(x)
        return x + self.norm2(hidden)


class VisionTransformer(nn.Module):
    """Patch embedding, blocks, final norm, and the mixer of a video encoder.

    Args:
        depth, dim: number of blocks and width.
        channels: latent channels.
        patch: patch size, latent pixels.
        mixer_rank: rank of the module that mixes the first frame's output with later ones; 0 for none.
    """

    def __init__(
        self, depth: int, dim: int, *, channels: int, patch: int, mixer_rank: int = 0
    ) -> None:
        super().__init__()
        heads = num_heads(dim)
        self.dim = dim
        self.head_dim = dim // heads
        self.patch_embed = PatchEmbed(channels, dim, patch)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        if mixer_rank:
            self.mixer = AdaptiveNorm(dim, dim, rank=mixer_rank, normalize=False)
        self.has_mixer = bool(mixer_rank)
        self._recompute = False

    def set_checkpointing(self, enabled: bool) -> None:
        """Compute the inside of the MLPs again in backward instead of keeping it."""
        self._recompute = enabled

    def run(
        self,
        x: Tensor,
        *,
        start: int = 0,
        stop: int | None = None,
        rotary: Rotary | None = None,
        blocks: Sequence[int] | None = None,
        cache: KVCache | None = None,
        skip: int = 0,
    ) -> Tensor:
        """Apply blocks start to stop; the last of them leaves out the first `skip` tokens."""
        layers = range(len(self.blocks))[start:stop]
        for i in layers:
            x = self.blocks[i](
                x,
                rotary=rotary,
                blocks=blocks,
                cache=None if cache is None else cache.layers[i],
                skip=skip if i == layers[-1] else 0,
                recompute=self._recompute and self.training,
            )
        return x
