# SPDX-License-Identifier: Apache-2.0
"""Fresh weights carry colours already, and a video's autoencoder can begin as that of pictures."""

from __future__ import annotations

import pytest
import torch

from diffnext.engine.vae import export, models
from tests.engine.vae.toy import PICTURES, VIDEOS, fresh


@torch.no_grad()
@pytest.mark.parametrize("config", [PICTURES, VIDEOS], ids=["pictures", "videos"])
def test_flat_colours_can_be_read_from_the_first_latents(config):
    colours = torch.rand(64, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x = colours[..., None, None].expand(-1, -1, 16, 16)
    posterior = fresh(config).encode(x).latent_dist
    features = torch.cat([posterior.mean[:, :, 1, 1], torch.ones(64, 1)], dim=1)
    solution = torch.linalg.lstsq(features, colours).solution
    residual = features @ solution - colours
    assert residual.square().mean() < 0.1 * colours.var()  # a linear map finds the colours
    assert posterior.std.mean() < 0.3 * posterior.mean.std()  # and noise does not hide them


@torch.no_grad()
def test_a_video_autoencoder_begins_as_that_of_pictures(tmp_path):
    pictures = fresh(PICTURES, seed=1)
    for param in pictures.parameters():
        param.add_(0.05 * torch.randn_like(param))  # as if trained: no kernel is zero
    export.save(pictures, tmp_path)
    videos = fresh(VIDEOS, seed=2)
    kept = models.load_initial(videos, tmp_path)
    assert kept
    assert all("attentions" in name for name in kept)

    x = torch.rand(2, 3, 32, 32) * 2 - 1
    wanted = pictures.encode(x).latent_dist.parameters
    found = videos.encode(x).latent_dist.parameters
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)  # float32 sums in another order

    clip = torch.stack([x, *[torch.rand_like(x) for _ in range(4)]], dim=2)
    first = videos.encode(clip).latent_dist.mean[:, :, 0]
    assert first.shape == wanted[:, :4].shape


def test_weights_of_another_shape_are_refused(tmp_path):
    other = fresh({**PICTURES, "block_out_channels": [16, 16, 24, 24], "latent_channels": 3})
    torch.nn.init.zeros_(other.encoder.conv_in.weight)
    export.save(other, tmp_path)
    vae = fresh(PICTURES)
    kept = models.load_initial(vae, tmp_path)
    assert "encoder.conv_in.weight" in kept
    (tmp_path / models.WEIGHTS).unlink()
    from safetensors.torch import save_file

    save_file({"surprise": torch.zeros(1)}, tmp_path / models.WEIGHTS)
    with pytest.raises(ValueError, match="none of its weights fits"):
        models.load_initial(vae, tmp_path)
