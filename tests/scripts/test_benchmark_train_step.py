# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the training step runs, and both of its loops train the same network."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_step.py"


def test_the_small_benchmark_prints_both_loops_and_their_ratio(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--small", "--no-compile"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [
        ["eager", "plain"],
        ["eager", "trainer"],
        ["eager", "trainer"],
    ]
    ratio = float(lines[4].split()[-1])
    assert 0.3 < ratio < 3  # a busy machine; the figure itself is for docs


def test_a_wrong_size_is_an_error_of_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--model", "d48w1"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
