# SPDX-License-Identifier: Apache-2.0
"""Every command of the guide to the tools for caches runs, at a smaller size."""

import shlex
from pathlib import Path

import pytest
import torch

from diffnext import cli
from diffnext.data.records import open_reader
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from tests.docs.guides import ROOT, Guide, anchors, links, prepare

DOC = ROOT / "docs" / "cache_tools.md"
RULES = [
    ("/path/to/nova-image", "nova-image"),
    ("--resolution 1024", "--resolution 64 --device cpu --workers 0"),
    ("--repair --vae nova-image", r"\g<0> --device cpu --workers 0"),
    ("--min-psnr 25", "--min-psnr 1"),  # the autoencoder has random weights
]


def run(line):
    program, *words = shlex.split(line)
    assert program == "diffnext"
    wanted = (1,) if words[:2] == ["cache", "diff"] else (0,)
    assert cli.main(words) in wanted, line


def test_every_block_runs(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)
    torch.manual_seed(0)
    sizes = {"block_out_channels": (4, 4, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    AutoencoderKL(**sizes, **kinds).save_pretrained(tmp_path / "nova-image" / "vae")
    Guide(DOC, RULES, run).run()
    counts = {path.name: len(open_reader(path)) for path in tmp_path.glob("*_cache")}
    assert counts == {
        "photos_cache": 4,
        "bf16_cache": 4,
        "some_cache": 3,
        "train_cache": 3,
        "held_out_cache": 1,
        "all_cache": 4,
        "back_cache": 4,
    }
    assert "Picture 2 of noise." in Path("page.html").read_text()


def test_every_command_has_a_place():
    text = DOC.read_text(encoding="utf-8")
    for name in cli.COMMANDS:
        if name.startswith("cache ") and name != "cache prompts":
            assert f"diffnext {name}" in text


@pytest.mark.parametrize("target", links(DOC))
def test_links_lead_somewhere(target):
    path, _, anchor = target.partition("#")
    assert (DOC.parent / path).is_file()
    assert not anchor or anchor in anchors(DOC.parent / path)
