# SPDX-License-Identifier: Apache-2.0
"""Autoencoders learn, go on after a kill as if nothing had been, and are written in a form that loads."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffnext.engine.vae import loop, models
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora
from diffnext.shapes import draw, draw_video, random_scene
from diffnext.shapes.files import write_video
from diffnext.utils.logging import logger

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "train_vae.py"
COMMON = {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 1}
PICTURES = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    **COMMON,
}
VIDEOS = {"_class_name": "AutoencoderKLOpenSora", **COMMON}


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_vae", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train(tool, tmp_path):
    """Call the tool on the shapes world with small defaults; returns the exit code."""

    def call(name: str, config: dict = PICTURES, **options: object) -> int:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config))
        values = {
            "input": "shapes",
            "size": 32,
            "steps": 6,
            "batch_size": 2,
            "measure": 4,
            **options,
        }
        words = [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]
        return tool.main(["--quiet", f"--output={tmp_path / name}", f"--config={path}", *words])

    return call


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_reconstruction_gets_better(train, tmp_path):
    assert train("run", steps=60, batch_size=4) == 0
    losses = [row["loss/reconstruction"] for row in log(tmp_path / "run")]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (PICTURES, {}),
        (PICTURES, {"adversarial_weight": 0.1, "adversarial_start": 2, "crop": 16}),
        (VIDEOS, {"num_frames": 5, "batch_size": 1}),
    ],
    ids=["pictures", "adversarial", "videos"],
)
def test_a_killed_run_goes_on_bit_for_bit(train, tmp_path, monkeypatch, config, options):
    assert train("whole", config, save_every=2, **options) == 0
    step = loop.Trainer.step

    def killed(self, x):
        if self.finished == 5:  # one step after the last saved state
            raise KeyboardInterrupt
        return step(self, x)

    monkeypatch.setattr(loop.Trainer, "step", killed)
    assert train("killed", config, save_every=2, **options) == 130
    monkeypatch.setattr(loop.Trainer, "step", step)
    assert len(log(tmp_path / "killed")) == 5
    assert train("killed", config, save_every=2, **options) == 0

    assert log(tmp_path / "killed") == log(tmp_path / "whole")
    states = [torch.load(tmp_path / name / "training_state.pt") for name in ("whole", "killed")]
    assert_same(*states)
    weights = [(tmp_path / name / models.WEIGHTS).read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def assert_same(one, other):
    """Nested states are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def test_a_finished_run_is_not_trained_again(train, tmp_path):
    train("run", steps=3)
    before = (tmp_path / "run" / "training_state.pt").stat().st_mtime_ns
    assert train("run", steps=3) == 0
    assert (tmp_path / "run" / "training_state.pt").stat().st_mtime_ns == before


def test_a_run_that_is_ended_early_is_exported_and_can_go_on(train, tmp_path):
    train("whole")
    train("parts", until=4)
    assert len(log(tmp_path / "parts")) == 4
    assert (tmp_path / "parts" / "quality.json").exists()
    train("parts")
    weights = [(tmp_path / name / models.WEIGHTS).read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_resume_with_other_settings_says_which(train, capsys):
    train("run", steps=2)
    assert train("run", steps=2, lr=1e-3) == 2
    message = capsys.readouterr().err
    assert "lr 0.002" in message
    assert "0.001" in message
    assert train("run", steps=2, lr=1e-3, resume="never") == 0


def test_pictures_of_a_folder(train, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        (tmp_path / "media" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(random_scene(rng), 40)).save(
            tmp_path / "media" / str(i % 2) / f"{i}.png"
        )
    assert train("run", input=tmp_path / "media", steps=2) == 0
    quality = json.loads((tmp_path / "run" / "quality.json").read_text())
    assert quality["clips"] == 1  # one of twenty, at least one
    vae = AutoencoderKL.from_pretrained(tmp_path / "run")
    assert vae.dtype == torch.float32


def test_a_broken_picture_is_named_and_passed_over(train, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logger, "propagate", True)  # to caplog
    media = tmp_path / "media"
    media.mkdir()
    for i in range(4):
        Image.fromarray(draw(random_scene(np.random.default_rng(i)), 32)).save(media / f"{i}.png")
    (media / "broken.jpg").write_bytes(b"no picture")
    (media / "._0.jpg").write_bytes(b"Mac OS X")
    assert train("run", input=media, steps=2) == 0
    assert "broken.jpg is left out" in caplog.text and "._0" not in caplog.text


def test_a_file_in_the_way_is_named(train, tmp_path, capsys):
    (tmp_path / "run").write_text("a file")
    assert train("run") == 2
    error = capsys.readouterr().err
    assert error.startswith("train_vae: ") and str(tmp_path / "run") in error


def test_videos_of_a_folder(train, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "media").mkdir()
    for i in range(3):
        video = draw_video(random_scene(rng, video=True), 32, 7)
        write_video(tmp_path / "media" / f"{i}.mp4", video)
    options = {"num_frames": 5, "batch_size": 1, "steps": 2, "save_dtype": "float16"}
    assert train("run", VIDEOS, input=tmp_path / "media", **options) == 0
    vae = AutoencoderKLOpenSora.from_pretrained(tmp_path / "run", torch_dtype=torch.float32)
    moments = vae.encode(torch.zeros(1, 3, 5, 32, 32)).latent_dist.parameters
    assert moments.shape == (1, 8, 2, 4, 4)


@pytest.mark.parametrize(
    ("config", "options", "what"),
    [
        ({**PICTURES, "_class_name": "VQModel"}, {}, "_class_name 'VQModel'"),
        (PICTURES, {"num_frames": 5}, "needs an autoencoder of videos"),
        (VIDEOS, {"num_frames": 8}, "wanted 4 k + 1, such as 9"),
        (PICTURES, {"input": "nowhere"}, "--input 'nowhere' is no folder"),
        (PICTURES, {"init": "nowhere"}, "--init nowhere has no"),
        (PICTURES, {"crop": 33}, "--crop is 33"),
        (PICTURES, {"size": 36}, "--size is 36"),
    ],
)
def test_what_cannot_work_is_said_before_training(train, capsys, config, options, what):
    assert train("run", config, **options) == 2
    assert what in capsys.readouterr().err


def test_help_needs_no_heavy_import():
    code = f"""
import runpy, sys
sys.argv = ["train_vae.py", "--help"]
try:
    runpy.run_path({str(TOOL)!r}, run_name="__main__")
except SystemExit as stop:
    assert stop.code == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--kl-weight" in done.stdout
