# SPDX-License-Identifier: Apache-2.0
"""Autoencoders that diffusers has: the same arguments, and folders that go both ways."""

import inspect
import json

import diffusers
import pytest
import torch

from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffnext.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from tests.models.autoencoders.test_two_layouts import COGVIDEOX

PICTURES = {
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
    "scaling_factor": 0.13025,
}
# version 0.9.5 of LTX-Video as diffusers' own converter describes it
LTX_095 = {
    "block_out_channels": (128, 256, 512, 1024, 2048),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "decoder_block_out_channels": (256, 512, 1024),
    "layers_per_block": (4, 6, 6, 2, 2),
    "decoder_layers_per_block": (5, 5, 5, 5),
    "spatio_temporal_scaling": (True,) * 4,
    "decoder_spatio_temporal_scaling": (True,) * 3,
    "decoder_inject_noise": (False,) * 4,
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "upsample_residual": (True,) * 3,
    "upsample_factor": (2,) * 3,
    "timestep_conditioning": True,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
SMALL = {"block_out_channels": (4, 8, 16, 32, 64), "decoder_block_out_channels": (8, 16, 32)}
SMALL |= {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 4, "latent_channels": 8}
CASES = {
    AutoencoderKL: PICTURES,
    AutoencoderKLCogVideoX: {key: COGVIDEOX[key] for key in COGVIDEOX if key != "sample_size"},
    AutoencoderKLLTXVideo: LTX_095 | SMALL,
}


def own(cls):
    """The class of diffusers that has this name."""
    return getattr(diffusers, cls.__name__)


def loaded(cls, folder):
    vae, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return vae


def described(vae):
    """Every argument of diffusers' class, as JSON has it, and the shapes of all weights."""
    arguments = set(inspect.signature(own(type(vae)).__init__).parameters) - {"self"}
    config = {
        key: value for key, value in json.loads(vae.to_json_string()).items() if key in arguments
    }
    return config, {name: value.shape for name, value in vae.state_dict().items()}


@pytest.mark.parametrize("cls", CASES)
def test_arguments_and_defaults(cls):
    ours = inspect.signature(cls.__init__).parameters
    theirs = inspect.signature(own(cls).__init__).parameters
    assert {name: ours[name].default for name in theirs} == {
        name: argument.default for name, argument in theirs.items()
    }


@pytest.mark.parametrize("cls", CASES)
def test_folders_go_both_ways(cls, tmp_path):
    first = own(cls)(**CASES[cls])
    first.save_pretrained(tmp_path / "theirs")
    ours = loaded(cls, tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    last = loaded(own(cls), tmp_path / "ours")
    for vae in (ours, last):
        assert described(vae) == described(first)
        state = vae.state_dict()
        assert all(torch.equal(state[name], value) for name, value in first.state_dict().items())


@torch.no_grad()
def test_latents_of_ltx_are_decoded_at_time_0():
    torch.manual_seed(0)
    ours = AutoencoderKLLTXVideo(**CASES[AutoencoderKLLTXVideo]).eval()
    z = torch.randn(2, 8, 2, 1, 1)
    for time, agrees in ((0.0, True), (1.0, False)):
        theirs = own(AutoencoderKLLTXVideo).decode(ours, z, temb=torch.full((2,), time)).sample
        assert torch.allclose(ours.decode(z).sample, theirs, atol=1e-6) == agrees


def test_novas_description_of_ltx_is_that_of_version_095(tmp_path):
    nova = {
        "block_out_channels": [128, 256, 512, 1024, 2048],
        "layers_per_block": [4, 6, 6, 2, 2],
        "decoder_block_out_channels": [128, 256, 512, 1024],
        "decoder_layers_per_block": [5, 5, 5, 5],
    }
    with torch.device("meta"):
        ours, theirs = AutoencoderKLLTXVideo(**nova), own(AutoencoderKLLTXVideo)(**LTX_095)
        ours.save_config(tmp_path)
        again = own(AutoencoderKLLTXVideo).from_config(AutoencoderKLLTXVideo.load_config(tmp_path))
    assert described(ours) == described(again) == described(theirs)
