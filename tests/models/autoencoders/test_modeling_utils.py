# SPDX-License-Identifier: Apache-2.0
"""Posterior, scale and tiles against their definitions."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.latent_scale import sample_moments
from diffnext.models.autoencoders.modeling_utils import (
    GaussianPosterior,
    map_time_tiles,
)


def normal(moments):
    mean, logvar = moments.chunk(2, dim=1)
    return Normal(mean, (0.5 * logvar).exp())


@pytest.mark.parametrize("shape", [(2, 6, 4, 4), (2, 6, 3, 4, 4)])
def test_divergence_is_that_of_normal_distributions(shape):
    one, other = torch.randn(shape), torch.randn(shape)
    wanted = kl_divergence(normal(one), normal(other)).flatten(1).sum(1)
    torch.testing.assert_close(GaussianPosterior(one).kl(GaussianPosterior(other)), wanted)
    standard = Normal(torch.zeros(()), torch.ones(()))
    wanted = kl_divergence(normal(one), standard).flatten(1).sum(1)
    torch.testing.assert_close(GaussianPosterior(one).kl(), wanted)


def test_samples_follow_the_moments_and_the_noise():
    moments, noise = torch.randn(2, 6, 3, 4, 4).half(), torch.randn(2, 3, 3, 4, 4)
    found = sample_moments(moments, noise)
    assert found.dtype == torch.float32
    wanted = normal(moments.float())
    torch.testing.assert_close(found, wanted.mean + wanted.stddev * noise)


def test_one_log_variance_may_be_that_of_all_channels():
    mean, logvar, noise = (
        torch.randn(2, 4, 3, 4, 4),
        torch.randn(2, 1, 3, 4, 4),
        torch.randn(2, 4, 3, 4, 4),
    )
    found = sample_moments(torch.cat([mean, logvar], dim=1), noise)
    torch.testing.assert_close(found, mean + (0.5 * logvar).exp() * noise)


def test_a_variance_has_bounds():
    moments = torch.tensor([0.0, 100.0, -100.0]).view(1, 3, 1, 1)
    moments = torch.cat([torch.zeros(1, 3, 1, 1), moments], dim=1)
    std = sample_moments(moments, torch.ones(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(std, torch.tensor([1.0, torch.e**10, torch.e**-15]))


TINY = {"block_out_channels": (4,), "norm_num_groups": 4, "latent_channels": 2}


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"scaling_factor": 0.5}, [1.0, 2.0]),
        ({"scaling_factor": 0.5, "shift_factor": 2.0}, [0.0, 1.0]),
        ({"scaling_factor": 1.0, "shift_factor": [1.0, 3.0]}, [1.0, 1.0]),
        (
            {"scaling_factor": 2.0, "latents_mean": [1.0, 3.0], "latents_std": [0.5, 4.0]},
            [4.0, 0.5],
        ),
    ],
)
@pytest.mark.parametrize("dims", [4, 5])
def test_scale_follows_the_configuration(config, wanted, dims):
    vae = AutoencoderKL(**TINY, **config)
    z = torch.tensor([2.0, 4.0]).view(1, 2, *[1] * (dims - 2))
    scaled = vae.scale_(z)
    torch.testing.assert_close(scaled.flatten(), torch.tensor(wanted))
    torch.testing.assert_close(vae.unscale_(scaled), z)
    assert z.flatten().tolist() == [2.0, 4.0]  # what was given is left as it was


def test_moments_need_a_variance():
    with pytest.raises(ValueError, match="double_z False"):
        AutoencoderKL(**TINY, double_z=False)


@pytest.mark.parametrize("frames", range(1, 14))
def test_tiles_in_time_cover_every_frame_once(frames):
    seen = []

    def remember(tile):
        seen.append(tile.shape[2])
        return tile

    x = torch.arange(frames).view(1, 1, -1, 1, 1)
    assert torch.equal(map_time_tiles(remember, x, size=5), x)
    assert max(seen) <= 5 and min(seen) >= min(frames, 2)
