# SPDX-License-Identifier: Apache-2.0
"""Random times and ratios against their distributions."""

import math

import pytest
import torch

from diffnext.schedulers import densities


def test_uniform_covers_all_timesteps_and_no_more():
    u = torch.tensor([0.0, 0.0009999, 0.001001, 0.5, 1 - 2**-24])
    assert densities.uniform(u, 1000).tolist() == [0, 0, 1, 500, 999]


def test_logit_normal():
    n = torch.tensor([-100.0, -1.0, 0.0, 1.0, 100.0])
    wanted = [min(int(1000 / (1 + math.exp(-x))), 999) for x in n.tolist()]
    assert densities.logit_normal(n, 1000).tolist() == wanted


@pytest.mark.parametrize("u", [0.0, 0.1, 0.5, 0.9, 1 - 2**-53])
def test_truncated_normal_is_a_quantile(u):
    """The share of the density below it, by summing, is u."""
    found = densities.truncated_normal(u, mean=1.0, std=0.25, low=0.7, high=1.0)
    steps = torch.linspace(0.7, 1.0, 300_001, dtype=torch.float64)
    density = torch.exp(-(((steps - 1) / 0.25) ** 2) / 2)
    below = density[steps < found].sum() / density.sum()
    assert 0.7 <= found <= 1.0
    assert abs(below.item() - u) < 1e-5
