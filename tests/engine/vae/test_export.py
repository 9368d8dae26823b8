# SPDX-License-Identifier: Apache-2.0
"""What is exported decodes as before, with latents of unit variance, and is measured truly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from diffnext.engine.vae import export
from diffnext.engine.vae.sources import Batches, ShapesSource, stack
from tests.engine.vae.toy import PICTURES, VIDEOS, fresh


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "frames"), [(PICTURES, 1), (VIDEOS, 5)], ids=["pictures", "videos"]
)
def test_normalising_changes_no_pixel(config, frames):
    vae = fresh(config)
    source = ShapesSource(32, frames)
    batches = Batches(source, batch_size=4, seed=0, lengths=(frames,))
    x = stack([source.heldout(i, frames) for i in range(4)])
    before = vae.decode(vae.encode(x).latent_dist.mean).sample

    export.normalise(vae, batches, count=6)

    posterior = vae.encode(x).latent_dist
    after = vae.decode(posterior.mean).sample
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    torch.manual_seed(0)
    draws = torch.cat([vae.encode(batches.at(i)).latent_dist.sample() for i in range(6)])
    scaled = vae.scale_(draws).transpose(0, 1).flatten(1)
    torch.testing.assert_close(scaled.mean(1), torch.zeros(4), atol=0.15, rtol=0)
    torch.testing.assert_close(scaled.std(1), torch.ones(4), atol=0.15, rtol=0)  # other noise


class Offset(nn.Module):
    """An autoencoder that adds a constant to what it is given."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(offset))

    def encode(self, x):
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
        from diffusers.models.modeling_outputs import AutoencoderKLOutput

        moments = torch.cat([x, torch.full_like(x, -30.0)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, z):
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=z + self.offset)

    def scale_(self, z):
        return z


class Grey:
    """Clips of one grey value, as many as are asked for."""

    def heldout(self, number: int, num_frames: int) -> np.ndarray:
        return np.full((num_frames, 16, 16, 3), 100 + number, np.uint8)

    def num_heldout(self) -> int:
        return 3


def test_psnr_of_a_known_error():
    quality = export.measure(Offset(2 * 8 / 255), Grey(), count=10)
    assert quality.clips == 3
    assert quality.psnr == pytest.approx(20 * np.log10(255 / 8), abs=1e-3)  # 8 of 255 levels off
