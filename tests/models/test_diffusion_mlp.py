# SPDX-License-Identifier: Apache-2.0
"""The denoiser of tokens: formula of the timestep, independence of tokens, repeats, recomputing."""

import math

import pytest
import torch

from diffnext.models.diffusion_mlp import DiffusionMLP
from tests.models.tiny import randomize


@pytest.fixture
def decoder():
    return randomize(DiffusionMLP(2, 16, cond_dim=12, channels=4, patch=2)).train()


def test_timesteps_are_cosines_then_sines(decoder):
    embed = decoder.time_cond_embed
    angles = [250 * math.exp(-math.log(10000) * i / 128) for i in range(128)]
    wave = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    wanted = embed.timestep_proj(wave)
    # float32 angles of up to 250 radians are wrong by up to 2e-5
    torch.testing.assert_close(embed.embed_timestep(torch.tensor(250)), wanted, rtol=0, atol=1e-4)


def test_no_two_timesteps_become_one_in_half_precision(decoder):
    """As numbers of bfloat16 there would be 506 of them."""
    with torch.no_grad():
        found = decoder.bfloat16().time_cond_embed.embed_timestep(torch.arange(1000.0))
    assert found.dtype == torch.bfloat16
    assert len(found.unique(dim=0)) > 990  # neighbours at the noisy end may round to the same


def test_a_token_does_not_know_the_others(decoder):
    noisy, timestep = torch.randn(3, 5, 16), torch.rand(3, 5) * 1000
    cond = torch.randn(3, 5, 12)
    whole = decoder(noisy, timestep, cond)
    for n in range(5):
        alone = decoder(noisy[:, n], timestep[:, n], cond[:, n])
        torch.testing.assert_close(whole[:, n], alone)


def test_repeats_share_their_condition(decoder):
    noisy, timestep = torch.randn(4, 3, 5, 16), torch.rand(4, 3, 5) * 1000
    cond = torch.randn(3, 5, 12)
    repeated = decoder(noisy, timestep, cond.expand(4, -1, -1, -1).contiguous())
    torch.testing.assert_close(decoder(noisy, timestep, cond), repeated)


def test_recomputing_gives_the_same_gradients(decoder):
    inputs = torch.randn(3, 5, 16), torch.rand(3, 5) * 1000, torch.randn(3, 5, 12)
    gradients = []
    for enabled in (False, True):
        decoder.set_checkpointing(enabled)
        decoder.zero_grad()
        decoder(*inputs).square().sum().backward()
        gradients.append([p.grad.clone() for p in decoder.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)
