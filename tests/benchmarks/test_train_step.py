# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the training step runs, and both of its loops train the same network."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_the_small_benchmark_prints_both_loops_and_their_ratio(run_benchmark, capsys):
    run_benchmark("train_step", "--small", "--no-compile")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [
        ["eager", "plain"],
        ["eager", "trainer"],
        ["eager", "trainer"],
    ]
    ratio = float(lines[4].split()[-1])
    assert 0.3 < ratio < 3  # a busy machine; the figure itself is for docs


def test_a_wrong_size_is_an_error_of_the_command_line(run_benchmark):
    with pytest.raises(SystemExit):
        run_benchmark("train_step", "--model", "d48w1")


def test_the_overhead_is_told_as_a_share_of_a_step(run_benchmark, capsys, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    short = importlib.import_module("step_overhead")
    monkeypatch.setattr(short, "BLOCK", 2)
    monkeypatch.setattr(short, "TURNS", 1)
    run_benchmark("train_step", "--overhead")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["plain", "trainer", "overhead", "data"]
    plain, whole, added = (float(line[1]) for line in lines[:3])
    assert whole - plain == pytest.approx(added, abs=0.02)  # printed with two digits


@pytest.mark.slow  # torchrun and two processes each
@pytest.mark.parametrize("backend", ["ddp", "fsdp", "deepspeed"])
def test_each_backend_is_measured(backend):
    command = [sys.executable, FOLDER / "train_step.py", "--small", "--no-compile"]
    options = ["--steps", "1", "--processes", "2", "--threads", "1", "--backend", backend]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("eager")] == [
        "plain",
        "trainer",
        "trainer",
    ]
