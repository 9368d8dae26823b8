# SPDX-License-Identifier: Apache-2.0
"""Runs a benchmark as a user does, within this process."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run_benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call with the name of a benchmark and its arguments."""

    def run(name: str, *arguments: str) -> None:
        path = str(FOLDER / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        monkeypatch.syspath_prepend(FOLDER)  # as python does for a script
        try:
            runpy.run_path(path, run_name="__main__")
        finally:
            for sibling in FOLDER.glob("*.py"):
                sys.modules.pop(sibling.stem, None)

    return run
