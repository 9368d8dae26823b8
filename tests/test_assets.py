# SPDX-License-Identifier: Apache-2.0
"""The shipped model folders are whole, small, as good as they say, and complete but for a transformer."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import CodeGenTokenizerFast

from diffnext.engine.vae import export
from diffnext.engine.vae.sources import ShapesSource
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora
from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from diffnext.pipelines import NOVAPipeline
from diffnext.shapes import VALUES

ROOT = Path(__file__).parents[1]
PICTURES, VIDEOS = ROOT / "assets" / "nova_shapes", ROOT / "assets" / "nova_shapes_video"
FRAMES = {PICTURES: 1, VIDEOS: 17}
VAES = {PICTURES: AutoencoderKL, VIDEOS: AutoencoderKLOpenSora}
both = pytest.mark.parametrize("folder", [PICTURES, VIDEOS], ids=["pictures", "videos"])


def test_all_assets_stay_under_15_mb():
    files = [path for path in (ROOT / "assets").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6


@both
def test_the_autoencoder_is_as_good_as_stated(folder):
    vae = VAES[folder].from_pretrained(folder / "vae")
    assert vae.dtype == torch.float32  # whatever the file holds
    stated = json.loads((folder / "vae" / "quality.json").read_text())
    assert stated["psnr"] >= 30
    frames = FRAMES[folder]
    count = 32 if frames == 1 else 4
    quality = export.measure(vae, ShapesSource(64, frames), count=count, num_frames=frames)
    assert quality.psnr >= (30 if frames == 1 else 29)  # four clips alone scatter by a decibel
    assert quality.psnr == pytest.approx(stated["psnr"], abs=1.5)
    assert quality.latent_std == pytest.approx(1.0, abs=0.15)


def test_every_word_of_a_caption_is_one_token():
    tokenizer = CodeGenTokenizerFast.from_pretrained(PICTURES / "tokenizer")
    text = "A large red circle at the top left on a white background moving left slowly."
    assert len(tokenizer(text).input_ids) == len(text.split()) + 1
    words = [word for values in VALUES.values() for value in values for word in value.split()]
    for word in words:
        assert len(tokenizer(word).input_ids) == len(tokenizer(f" {word}").input_ids) == 1


@pytest.mark.parametrize(
    "text", ["", "Na\u00efve \u6f22\u5b57 \U0001f600", "x<|endoftext|>y\n\t{}"]
)
def test_any_text_encodes_and_comes_back(text):
    tokenizer = CodeGenTokenizerFast.from_pretrained(VIDEOS / "tokenizer")
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_states_of_captions_tell_every_attribute():
    spec = importlib.util.spec_from_file_location("text", ROOT / "tools" / "shapes_text.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    shares = tool.probe(PICTURES)
    assert set(shares) == set(VALUES)
    assert min(shares.values()) > 0.99


def test_both_folders_share_tokenizer_and_text_encoder():
    for part in ("tokenizer", "text_encoder"):
        names = sorted(path.name for path in (PICTURES / part).iterdir())
        assert names == sorted(path.name for path in (VIDEOS / part).iterdir())
        for name in names:
            assert (PICTURES / part / name).read_bytes() == (VIDEOS / part / name).read_bytes()


@both
def test_with_a_transformer_the_folder_is_a_pipeline(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    torch.manual_seed(0)
    config = NOVATransformer3DModel.load_config(folder / "transformer")
    net = NOVATransformer3DModel.from_config(config)
    net.save_pretrained(tmp_path / "model" / "transformer")
    pipe = NOVAPipeline.from_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    length = config["video_base_size"][0]
    out = pipe(
        "a red circle",
        num_inference_steps=2,
        num_diffusion_steps=2,
        max_latent_length=length,
        output_type="latent",
    )
    latents = out.images if length == 1 else out.frames
    assert latents.shape[-2:] == (8, 8)
    assert torch.isfinite(latents).all()
    assert (torch.tensor(latents.shape) == length).any()
