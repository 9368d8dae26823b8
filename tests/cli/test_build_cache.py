# SPDX-License-Identifier: Apache-2.0
"""Whether a build begins that the disk may be too small for, or that others do in another way."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from diffnext.cli import build_cache, build_plan
from diffnext.cli.build_args import parse_args
from diffnext.data.cache_plan import Plan
from diffnext.data.shelf import SHELF
from diffnext.models.autoencoders.kinds import class_defaults
from tests.data.packed import png
from tests.data.remote.web import serving

VAE = Path(__file__).parents[2] / "assets" / "nova_shapes"


@pytest.fixture
def command(tmp_path):
    """A build of one picture behind a server."""
    pytest.importorskip("aiohttp")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.png").write_bytes(png(7))
    row = {"path": "a.png", "caption": "Grey."}
    (tmp_path / "m" / "m.jsonl").write_text(json.dumps(row))
    with serving(tmp_path / "m") as web:
        yield [
            *("--input", f"{web.url}/m.jsonl", "--output", str(tmp_path / "c"), "--vae", str(VAE)),
            *("--resolution", "64", "--device", "cpu", "--workers", "0"),
        ]


def test_copies_of_media_give_way_to_records(command, monkeypatch, capsys):
    """Together they find no room."""
    looks = []

    def free(plan):
        looks.append(Path(plan.output, SHELF).exists())
        return 0 if looks[-1] else 1 << 30

    monkeypatch.setattr(Plan, "free_bytes", property(free))
    assert build_cache.main(command) == 0
    assert looks[0] and "1 written, 1 records in all" in capsys.readouterr().out


def test_a_plan_without_room_is_refused(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Plan, "free_bytes", 0)
    assert build_cache.main(command) == 2
    assert "c: the disk is too small for this plan; make room, or" in capsys.readouterr().err
    assert not (tmp_path / "c" / SHELF).exists()


def test_autoencoders_that_encode_alike_are_asked_for_alike(tmp_path):
    """By the processes of one build: another scale, and defaults of the class left out or not."""
    other = Path(shutil.copytree(VAE / "vae", tmp_path / "vae"))
    config = json.loads((other / "config.json").read_text())
    defaults = class_defaults("AutoencoderKL")
    assert class_defaults("Stub") == {} and "act_fn" in defaults
    kept = {key: value for key, value in config.items() if defaults.get(key, 0) != value}
    assert kept.keys() < config.keys()

    def asked(vae):
        words = ["--input", "a", "--output", "b", "--vae", str(vae), "--resolution", "64"]
        latents = build_plan.latents_of(str(vae))
        return build_plan.what_is_asked(parse_args(words, ""), latents, torch.float32)

    (other / "config.json").write_text(json.dumps({**kept, "scaling_factor": 2}))
    assert asked(other) == asked(VAE)
    (other / "config.json").write_text(json.dumps({**kept, "norm_num_groups": 2}))
    assert asked(other) != asked(VAE)
