# SPDX-License-Identifier: Apache-2.0
"""Autoencoders are found by the folder they lie in, and told apart by their weights."""

import json

import pytest
import torch

from diffnext.models.autoencoders import loading
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffnext.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora
from diffnext.models.autoencoders.modeling_utils import strides

TINY = {"block_out_channels": (4, 4), "norm_num_groups": 4, "layers_per_block": 1}
KINDS = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    AutoencoderKL(**TINY, **KINDS).save_pretrained(tmp_path / "vae")
    return tmp_path


def write_index(folder, entry):
    (folder / "model_index.json").write_text(json.dumps({"vae": entry}))


def test_a_model_folder_and_the_folder_itself(folder):
    assert loading.find_vae(str(folder)) == folder / "vae"
    assert loading.find_vae(str(folder / "vae")) == folder / "vae"
    vae = loading.load_vae(str(folder), dtype=torch.bfloat16)
    assert type(vae) is AutoencoderKL
    assert next(vae.parameters()).dtype == torch.bfloat16
    assert not vae.training


def test_a_folder_without_one_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "NOVATransformer3DModel"}')
    with pytest.raises(ValueError, match="neither the folder of an autoencoder"):
        loading.find_vae(str(tmp_path))


def test_the_index_of_a_model_goes_first(folder):
    write_index(
        folder, ["diffnext.models.autoencoders.autoencoder_kl_ltx", "AutoencoderKLLTXVideo"]
    )
    assert loading.vae_class(folder / "vae") is AutoencoderKLLTXVideo
    write_index(folder, ["diffusers", "AutoencoderTiny"])
    with pytest.raises(ValueError, match=r"'AutoencoderTiny'; diffnext has \['AutoencoderKL', "):
        loading.vae_class(folder / "vae")


def test_the_description_changes_with_weights_and_configuration(folder, tmp_path):
    described = loading.describe_vae(str(folder))
    assert described == loading.describe_vae(str(folder / "vae"))
    assert described["config"]["block_out_channels"] == [4, 4]
    AutoencoderKL(**TINY, **KINDS).save_pretrained(tmp_path / "other")
    other = loading.describe_vae(str(tmp_path / "other"))
    assert other["config"] == described["config"]
    assert other["weights_sha256"] != described["weights_sha256"]


def test_weights_of_another_precision_beside_do_not_count(folder):
    described = loading.describe_vae(str(folder))
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"other")
    assert loading.describe_vae(str(folder)) == described
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        loading.describe_vae(str(folder))


@pytest.mark.parametrize(
    ("cls", "options", "expected"),
    [
        (AutoencoderKL, {**TINY, **KINDS}, (1, 2)),
        (AutoencoderKLOpenSora, {"block_out_channels": (4, 4, 4, 4), "norm_num_groups": 4}, (4, 8)),
    ],
)
def test_strides(cls, options, expected):
    assert strides(cls(**options)) == expected


@pytest.mark.parametrize(
    ("cls", "expected"), [(AutoencoderKLCogVideoX, (4, 8)), (AutoencoderKLLTXVideo, (8, 32))]
)
def test_strides_of_the_published_video_autoencoders(cls, expected):
    with torch.device("meta"):
        assert strides(cls()) == expected
