# SPDX-License-Identifier: Apache-2.0
"""Losses against torch's own distributions and against hand-made cases."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from diffnext.engine.muon import NEWTON_SCHULZ, orthogonal
from diffnext.engine.vae import losses
from diffnext.engine.vae.muon import Muon


def test_divergence_is_that_of_torch():
    moments = torch.randn(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, logvar = moments.chunk(2, dim=1)
    posterior = Normal(mean, (0.5 * logvar).exp())
    wanted = kl_divergence(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean))).mean()
    torch.testing.assert_close(losses.divergence(moments), wanted)


def test_distance_of_a_constant_error():
    x = torch.zeros(2, 3, 4, 4)
    assert losses.distance(x + 0.5, x).item() == pytest.approx(0.5 + 0.25)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 3, 5, 32, 32)])
def test_the_discriminator_judges_patches_of_every_frame(shape):
    logits = losses.PatchDiscriminator(width=8)(torch.rand(shape))
    frames = shape[0] * (shape[2] if len(shape) == 5 else 1)
    assert logits.shape == (frames, 1, 4, 4)


def test_hinge_losses():
    def judge(x):
        return x

    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.5])
    # max(0, 1 - real): 0, 0.5; max(0, 1 + fake): 0, 1.5
    assert losses.discriminator_loss(judge, real, fake).item() == pytest.approx((0.25 + 0.75) / 2)
    assert losses.generator_loss(judge, fake).item() == pytest.approx(0.75)


@pytest.mark.parametrize("shape", [(16, 144), (64, 24)])
def test_orthogonal_has_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix, dtype=torch.float32)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5
    assert values.max() < 1.3  # the polynomial does not converge, it stays around 1
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    alignment = (found * (u @ v)).sum() / (found.norm() * (u @ v).norm())
    assert alignment > 0.97  # same singular vectors, values between 0.7 and 1.2


@pytest.mark.parametrize("shape", [(4, 2, 3, 3), (40, 2, 3, 3)])
def test_a_step_of_muon_is_exact_to_single_precision(shape):
    kernel = nn.Parameter(torch.zeros(shape))
    kernel.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    Muon([kernel], lr=1.0).step()
    u, s, vh = torch.linalg.svd(kernel.grad.flatten(1).double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):  # the polynomial acts on singular values alone
        s = NEWTON_SCHULZ[0] * s + NEWTON_SCHULZ[1] * s**3 + NEWTON_SCHULZ[2] * s**5
    wanted = -(max(1.0, shape[0] / 18) ** 0.5) * (u * s) @ vh
    found = kernel.detach().flatten(1).double()
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)  # float32; bfloat16 is off by 1e-2


def test_muon_finds_a_linear_map():
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(6, 9, generator=generator)
    kernel = nn.Parameter(torch.zeros(6, 1, 3, 3))
    optimizer = Muon([kernel], lr=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        (kernel.flatten(1) - wanted).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(kernel.detach().flatten(1), wanted, atol=0.05, rtol=0)
