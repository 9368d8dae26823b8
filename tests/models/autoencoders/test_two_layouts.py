# SPDX-License-Identifier: Apache-2.0
"""The autoencoders of CogVideoX and LTX-Video load the layouts of NOVA and of diffusers."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from diffnext.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffnext.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo

COGVIDEOX = {
    "block_out_channels": [8, 8, 8, 8],
    "layers_per_block": 1,
    "latent_channels": 4,
}
COGVIDEOX |= {"norm_num_groups": 4, "scaling_factor": 0.7, "sample_size": 32}
LTX = {"block_out_channels": [8, 8, 16, 16, 16], "layers_per_block": [1, 1, 1, 1, 1]}
LTX |= {
    "decoder_block_out_channels": [8, 16, 32, 64],
    "decoder_layers_per_block": [1, 2, 1, 1],
}
LTX |= {"latent_channels": 8, "down_block_types": ["LTXVideoDownBlock3D"] * 4}

# from names of diffusers to names of NOVA, written apart from the code under test
NOVA_NAMES = {
    AutoencoderKLCogVideoX: (
        (r"norm_out\.norm_layer\.", "norm_out."),
        (r"norm(\d|_out)\.conv_y\.conv\.", r"norm\1.scale."),
        (r"norm(\d|_out)\.conv_b\.conv\.", r"norm\1.shift."),
        (r"norm(\d)\.norm_layer\.", r"norm\1."),
        (r"\.norm_out\.", ".conv_norm_out."),
        (r"(conv\d|conv_in|conv_out)\.conv\.", r"\1."),
    ),
    AutoencoderKLLTXVideo: (
        (r"\.conv\.conv\.", ".conv."),
        (r"(conv\d|conv_in|conv_out)\.conv\.", r"\1."),
        (
            r"time_embedder\.timestep_embedder\.linear_(\d)",
            r"time_embed.timestep_proj.fc\1",
        ),
        (r"timestep_scale_multiplier", "timestep_scale"),
    ),
}


def nova_state(vae):
    """The weights of `vae` as NOVA would have saved them."""
    state = {}
    for name, value in vae.state_dict().items():
        for pattern, replacement in NOVA_NAMES[type(vae)]:
            name = re.sub(pattern, replacement, name)
        state[name] = value.clone()
    if isinstance(vae, AutoencoderKLLTXVideo):
        state["shift_factors"] = state.pop("latents_mean").view(1, -1, 1, 1, 1)
        state["scaling_factors"] = 1 / state.pop("latents_std").view(1, -1, 1, 1, 1)
    return state


def make(cls, config):
    torch.manual_seed(0)
    vae = cls(**config).eval()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.normal_(0, 0.1)
    if cls is AutoencoderKLLTXVideo:
        vae.latents_mean.uniform_(-1, 1)
        vae.latents_std.uniform_(0.5, 2)
    return vae


CASES = [(AutoencoderKLCogVideoX, COGVIDEOX), (AutoencoderKLLTXVideo, LTX)]


@pytest.mark.parametrize(("cls", "config"), CASES)
def test_a_folder_in_the_layout_of_nova_loads(cls, config, tmp_path):
    vae = make(cls, config)
    state = nova_state(vae)
    assert len(set(state) - set(vae.state_dict())) > 10
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": cls.__name__, **config}))
    loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, value in vae.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value)


@pytest.mark.parametrize(("cls", "config"), CASES)
def test_a_folder_in_the_layout_of_diffusers_loads(cls, config, tmp_path):
    vae = make(cls, config)
    vae.save_pretrained(tmp_path)
    loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    x = torch.rand(1, 3, 9, 64, 64) * 2 - 1
    with torch.no_grad():
        mine, theirs = vae.encode(x).latent_dist, loaded.encode(x).latent_dist
        assert torch.equal(mine.parameters, theirs.parameters)
        torch.testing.assert_close(vae.decode(mine.mean).sample, loaded.decode(mine.mean).sample)


@pytest.mark.parametrize(("cls", "config"), CASES)
def test_a_state_dict_in_the_layout_of_nova_loads_strictly(cls, config):
    vae, other = make(cls, config), cls(**config)
    other.load_state_dict(nova_state(vae))
    for name, value in vae.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)


@pytest.mark.parametrize(("cls", "config"), CASES)
def test_a_picture_is_a_video_of_one_frame(cls, config):
    vae = make(cls, config)
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        picture = vae.encode(x).latent_dist.parameters
        video = vae.encode(x[:, :, None]).latent_dist.parameters
        assert torch.equal(picture, video[:, :, 0])
        z = picture.chunk(2, dim=1)[0]
        decoded = vae.decode(z).sample
    assert decoded.shape == x.shape


@pytest.mark.parametrize(("cls", "config"), CASES)
def test_unscale_undoes_scale(cls, config):
    vae = make(cls, config)
    z = torch.randn(2, vae.config.latent_channels, 2, 3, 3)
    scaled = vae.scale_(z)
    torch.testing.assert_close(vae.unscale_(scaled), z)
    if cls is AutoencoderKLLTXVideo:
        expected = (z[:, 1] - vae.latents_mean[1]) / vae.latents_std[1]
        torch.testing.assert_close(scaled[:, 1], expected)
