# SPDX-License-Identifier: Apache-2.0
"""Normalisation whose scale and shift come from a condition."""

from __future__ import annotations

from torch import Tensor, nn


class AdaptiveNorm(nn.Module):
    """norm(x) (1 + s0) + s1, with s = proj(lora(z)) chunked on the last axis.

    The condition z has passed its activation (SiLU) already, once for all norms that share it.

    Args:
        dim: width of x.
        z_dim: width of the condition.
        num_stats: chunks of the projection: 2, or more to get gates besides scale and shift.
        rank: width of a linear bottleneck before the projection; 0 for none.
        normalize: False leaves x as it is before scale and shift.
    """

    def __init__(
        self, dim: int, z_dim: int, *, num_stats: int = 2, rank: int = 0, normalize: bool = True
    ) -> None:
        super().__init__()
        self.num_stats = num_stats
        self.lora = nn.Linear(z_dim, rank, bias=False) if rank else nn.Identity()
        self.proj = nn.Linear(rank or z_dim, num_stats * dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        if not normalize:
            self.norm = nn.Identity()

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        """Return the modulated x and the remaining chunks; x (..., D) and z (..., Z) broadcast."""
        stats = self.proj(self.lora(z)).chunk(self.num_stats, dim=-1)
        return self.norm(x) * (1 + stats[0]) + stats[1], *stats[2:]
