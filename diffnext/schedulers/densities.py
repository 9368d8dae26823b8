# SPDX-License-Identifier: Apache-2.0
"""How training draws random times and mask ratios, from uniform or normal numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def uniform(u: Tensor, num_timesteps: int) -> Tensor:
    """Integers in [0, num_timesteps) from u in [0, 1)."""
    return (u * num_timesteps).long().clamp_max(num_timesteps - 1)


def logit_normal(n: Tensor, num_timesteps: int) -> Tensor:
    """floor(sigmoid(n) * num_timesteps) for standard normal n, sec. 3.1 of arXiv:2403.03206."""
    return (torch.sigmoid(n) * num_timesteps).long().clamp_max(num_timesteps - 1)


def truncated_normal(u: float, *, mean: float, std: float, low: float, high: float) -> float:
    """Quantile u in [0, 1) of a normal distribution cut to [low, high]."""

    def cdf(x: float) -> float:
        return 0.5 * (1 + math.erf((x - mean) / (std * math.sqrt(2))))

    p = cdf(low) + u * (cdf(high) - cdf(low))
    z = torch.special.ndtri(torch.tensor(p, dtype=torch.float64)).item()
    return min(max(mean + std * z, low), high)
