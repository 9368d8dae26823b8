# SPDX-License-Identifier: Apache-2.0
"""Runs a guide from top to bottom: every fenced block, or the test fails."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml

import diffnext.config
from tests.data.clips import write_clip

ROOT = Path(__file__).parents[2]
Rules = Sequence[tuple[str, str]]  # pattern, what takes its place at a tiny size


@dataclass(frozen=True)
class Block:
    """A fenced block of a guide."""

    language: str
    text: str
    line: int  # of its opening fence, from 1


def blocks(path: Path) -> list[Block]:
    """All fenced blocks, in order; one without a language or an end is an error."""
    found: list[Block] = []
    opened: tuple[str, int] | None = None
    text: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        fence = re.match(r"\s*(```|~~~)\s*(\S*)", line)
        if fence is None:
            text.append(line)
        elif opened is None:
            assert fence[2], f"{path.name}:{number}: a block without a language"
            opened, text = (fence[2], number), []
        else:
            found.append(Block(opened[0], "".join(text), opened[1]))
            opened = None
    assert opened is None, f"{path.name}: the block of line {opened} has no end"
    return found


@lru_cache
def script(name: str) -> ModuleType:
    """A file of scripts/ or tools/, as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(words: Sequence[str]) -> None:
    """Run `scripts/NAME.py ARGUMENTS` in this process, which has loaded torch already."""
    assert re.fullmatch(r"(scripts|tools)/\w+\.py", words[0]), f"no way to run {words}"
    assert script(words[0]).main(list(words[1:])) == 0, words


def words(command: str) -> list[str]:
    """The arguments of a python command, without the interpreter."""
    found = shlex.split(command, comments=True)
    assert found[0] == "python", f"no way to run {command!r}"
    return found[2:] if found[1] == "-u" else found[1:]


class Guide:
    """Runs the blocks of a guide in the current folder, one after another.

    Args:
        path: the guide.
        rules: what is replaced in every block.
        command: runs one line of bash.
        others: what is done with blocks of further languages. Python is executed in one namespace; YAML
            is written to the file that its first line, a comment, names.
    """

    def __init__(
        self,
        path: Path,
        rules: Rules,
        command: Callable[[str], None],
        others: Mapping[str, Callable[[str], None]] | None = None,
    ) -> None:
        self.path = path
        self.rules = rules
        self.names: dict[str, Any] = {}
        self.runners = {
            "bash": lambda text: [command(line) for line in text.splitlines()],
            "yaml": write_yaml,
            **(others or {}),
        }

    def run(self) -> None:
        """Run every block; a language without a way to run it is an error."""
        for block in blocks(self.path):
            text = block.text
            for pattern, replacement in self.rules:
                text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
            place = f"{self.path.name}:{block.line}"
            if block.language == "python":
                exec(compile("\n" * block.line + text, str(self.path), "exec"), self.names)
                continue
            assert block.language in self.runners, f"{place}: no way to run {block.language!r}"
            self.runners[block.language](text)


def write_yaml(text: str) -> None:
    """Write a config to the file that its first line names: `# name.yml`."""
    name = re.match(r"# (\S+\.yml)\n", text)
    assert name, f"the first line names no file: {text!r}"
    assert yaml.safe_load(text)
    Path(name[1]).write_text(text)


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `folder` look like the repository's root to a reader with pictures and a clip."""
    for name in ("configs", "assets"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "photos").mkdir()
    (folder / "my_pictures").symlink_to(folder / "photos")
    noise = np.random.default_rng(0).integers(0, 255, (4, 80, 90, 3), np.uint8)
    for number, pixels in enumerate(noise):
        PIL.Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
        (folder / "photos" / f"{number}.txt").write_text(f"Picture {number} of noise.")
    PIL.Image.fromarray(noise[0]).save(folder / "first.png")
    write_clip(folder / "a.mp4", 16)
    (folder / "clips.csv").write_text("path,caption\na.mp4,A clip of bars.\n")
    monkeypatch.chdir(folder)
    # what a guide sets in the config of this process is gone afterwards
    monkeypatch.setattr(diffnext.config, "cfg", diffnext.config.get_cfg())
    for name, value in {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def links(path: Path) -> list[str]:
    """Targets of the links in a document, code left out, those to other sites too."""
    text = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(path: Path) -> set[str]:
    """Names of the headings of a document, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
