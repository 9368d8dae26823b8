# SPDX-License-Identifier: Apache-2.0
"""Autoencoders give the numbers of the original: 1e-5 of the greatest, the order of sums aside."""

import pytest
import torch

from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora
from tests.parity import recorded
from tests.parity.recorded import assert_near

TOLERANCE = 1e-5


def load(cls, name):
    vae, info = cls.from_pretrained(recorded.folder(name) / "vae", output_loading_info=True)
    assert not any(info.values())  # nothing missing, unexpected or of another shape
    return vae


def moments(vae, x):
    with torch.no_grad():
        return vae.encode(x).latent_dist.parameters


def decoded_mean(vae, moments):
    with torch.no_grad():
        return vae.decode(moments.chunk(2, dim=1)[0]).sample


def test_pictures():
    vae, vectors = load(AutoencoderKL, "t2i"), recorded.vectors("t2i")
    assert_near(moments(vae, vectors["vae.image"]), vectors["vae.moments"], TOLERANCE)
    found = decoded_mean(vae, vectors["vae.moments"])
    assert_near(found, vectors["vae.decoded_mean"], TOLERANCE)


@pytest.fixture(scope="module")
def video_vae():
    return load(AutoencoderKLOpenSora, "t2v")


@pytest.fixture(scope="module")
def vectors():
    return recorded.vectors("t2v")


def test_a_short_video(video_vae, vectors):
    assert_near(moments(video_vae, vectors["vae.video9"]), vectors["vae.moments9"], TOLERANCE)
    found = decoded_mean(video_vae, vectors["vae.moments9"])
    assert_near(found, vectors["vae.decoded9"], TOLERANCE)


def test_a_video_that_is_tiled_in_time(video_vae, vectors):
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(1, 3, 33, *vectors["vae.video9"].shape[3:], generator=generator) * 2 - 1
    assert_near(moments(video_vae, x), vectors["vae.moments33"], TOLERANCE)
    found = decoded_mean(video_vae, vectors["vae.moments33"])[:, :, ::4]
    assert_near(found, vectors["vae.decoded33"], TOLERANCE)


def test_a_picture_by_the_video_autoencoder(video_vae, vectors):
    found = moments(video_vae, vectors["vae.video9"][:, :, 0])
    assert_near(found, vectors["vae.moments_image"], TOLERANCE)
