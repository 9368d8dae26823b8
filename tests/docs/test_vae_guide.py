# SPDX-License-Identifier: Apache-2.0
"""Every command of the guide to autoencoders runs, at a smaller size."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from diffnext.shapes import draw, random_scene

ROOT = Path(__file__).parents[2]
SMALLER = ("--steps=2", "--size=32", "--batch-size=1", "--measure=2", "--quiet")


def commands() -> list[list[str]]:
    text = (ROOT / "docs" / "vae.md").read_text(encoding="utf-8")
    lines = "".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).splitlines()
    return [shlex.split(line) for line in lines]


def run_tool(path: str, words: list[str]) -> int:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(words)


def test_the_commands_run_in_order(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "assets", tmp_path / "assets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "tools")  # as python does for a script
    Path("photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(draw(random_scene(rng), 32)).save(f"photos/{i}.png")
    tools = []
    for python, tool, *words in commands():
        assert python == "python"
        tools.append(tool)
        if tool == "tools/train_vae.py":
            shorter = ["--num-frames=5"] if "--num-frames" in words else []
            words = [*words, *SMALLER, *shorter]
        assert run_tool(tool, words) == 0
    assert set(tools) == {"tools/train_vae.py", "tools/make_demo_model.py"}
    for name in ("nova_shapes", "nova_shapes_video"):
        assert json.loads(Path("assets", name, "vae", "quality.json").read_text())["clips"] == 2


def test_the_numbers_are_those_of_the_files():
    text = (ROOT / "docs" / "vae.md").read_text(encoding="utf-8")
    for name in ("nova_shapes", "nova_shapes_video"):
        quality = json.loads((ROOT / "assets" / name / "vae" / "quality.json").read_text())
        assert f"{quality['psnr']:.1f} dB" in text
