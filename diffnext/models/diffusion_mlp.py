# SPDX-License-Identifier: Apache-2.0
"""The denoiser of single tokens: an MLP with a condition and a timestep for each token.

Letters: N token, P values of a patch, D width, Z width of the condition.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diffnext.models.embeddings import PatchEmbed
from diffnext.models.normalization import AdaptiveNorm


class Projection(nn.Module):
    """Two linear layers, SiLU between."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim_in, dim)
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class TimeCondEmbed(nn.Module):
    """Sum of the projected condition and the projected timestep."""

    def __init__(self, cond_dim: int, dim: int) -> None:
        super().__init__()
        self.timestep_proj = Projection(256, dim)
        self.condition_proj = Projection(cond_dim, dim)

    def embed_timestep(self, timestep: Tensor) -> Tensor:
        """(...) timesteps, 0 to 1000, to (..., D)."""
        index = torch.arange(128, dtype=torch.float32, device=timestep.device)
        angles = timestep.float().unsqueeze(-1) * torch.exp(-math.log(1e4) * index / 128)
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.timestep_proj(sinusoid.to(self.timestep_proj.fc1.weight.dtype))

    def forward(self, timestep: Tensor, cond: Tensor) -> Tensor:
        """(...) and (..., Z) to (..., D); the two broadcast."""
        return self.condition_proj(cond) + self.embed_timestep(timestep)


class DiffusionBlock(nn.Module):
    """x + LN(proj(h)) g, with h and the gate g from an adaptive norm of x."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(dim, dim, num_stats=3)
        self.proj = Projection(dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h, gate = self.norm1(x, z)
        return x + self.norm2(self.proj(h)) * gate


class DiffusionMLP(nn.Module):
    """Prediction of noise or velocity, token by token.

    Args:
        depth, dim: number of blocks and width.
        cond_dim: width of the condition.
        channels, patch: a token has patch * patch * channels values.
    """

    def __init__(self, depth: int, dim: int, *, cond_dim: int, channels: int, patch: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(channels, dim, patch)
        self.time_cond_embed = TimeCondEmbed(cond_dim, dim)
        self.blocks = nn.ModuleList(DiffusionBlock(dim) for _ in range(depth))
        self.norm = AdaptiveNorm(dim, dim)
        self.head = nn.Linear(dim, patch * patch * channels)
        self._recompute = False

    def set_checkpointing(self, enabled: bool) -> None:
        """Compute the inside of the blocks again in backward instead of keeping it."""
        self._recompute = enabled

    def forward(self, noisy: Tensor, timestep: Tensor, cond: Tensor) -> Tensor:
        """Predict from tokens in patch space.

        Args:
            noisy: (..., N, P).
            timestep: (..., N), or anything that broadcasts to it.
            cond: (..., N, Z); leading axes broadcast, so that repeats of a condition cost nothing.

        Returns:
            (..., N, P).
        """
        return self.denoise(noisy, self.time_cond_embed(timestep, cond))

    def denoise(self, noisy: Tensor, z: Tensor) -> Tensor:
        """Predict from tokens (..., N, P) and the sum of condition and timestep (..., N, D)."""
        x, z = self.patch_embed(noisy), F.silu(z)
        for block in self.blocks:
            if self._recompute and self.training:
                x = checkpoint(block, x, z, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, z)
        return self.head(self.norm(x, z)[0])
