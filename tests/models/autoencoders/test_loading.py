# SPDX-License-Identifier: Apache-2.0
"""Autoencoders are found by the folder they lie in, and told apart by their weights."""

import json
from pathlib import Path

import pytest
import torch

from diffnext.models.autoencoders import kinds, loading
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffnext.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora
from diffnext.models.autoencoders.kinds import import_class
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


DIFFUSERS_LTX = {  # 0.9.1 as diffusers has it: the decoder's last width is not listed
    "decoder_block_out_channels": (128, 256, 512),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "upsample_residual": (False,) * 3,
    "upsample_factor": (1,) * 3,
}


@pytest.mark.parametrize(
    ("cls", "options", "expected"),
    [
        (AutoencoderKL, {**TINY, **KINDS}, (1, 2)),
        (AutoencoderKLOpenSora, {}, (4, 8)),
        (AutoencoderKLOpenSora, {"down_block_types": ("DownEncoderBlock2D",) * 4}, (1, 8)),
        (AutoencoderKLCogVideoX, {}, (4, 8)),
        (AutoencoderKLCogVideoX, {"temporal_compression_ratio": 8}, (8, 8)),
        (AutoencoderKLLTXVideo, {}, (8, 32)),
        (AutoencoderKLLTXVideo, DIFFUSERS_LTX, (8, 32)),
        (AutoencoderKLLTXVideo, {**DIFFUSERS_LTX, "patch_size": 2}, (8, 16)),
    ],
)
def test_strides_of_files_are_those_of_the_model(tmp_path, cls, options, expected):
    """What is left out has the default of the class; what a model saves of itself says the same."""
    with torch.device("meta"):
        vae = cls(**options)
    assert strides(vae) == expected
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": cls.__name__, **options}))
    assert loading.strides_of(tmp_path) == expected
    vae.save_config(tmp_path)
    assert loading.strides_of(tmp_path) == expected


def test_kinds_are_the_classes_of_the_package():
    named = {name: import_class(name).__module__ for name in kinds.KINDS}
    assert list(named) == [import_class(name).__name__ for name in named]
    files = Path(kinds.__file__).parent.glob("autoencoder_*.py")
    assert {module.rpartition(".")[2] for module in named.values()} == {f.stem for f in files}
