# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the training step runs, and both of its loops train the same network."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_the_small_benchmark_prints_both_loops_and_their_ratio(run_benchmark, capsys):
    run_benchmark("train_step", "--small", "--no-compile", "--frames", "5")
    first, about, plain, trainer, last = capsys.readouterr().out.splitlines()
    assert json.loads(first)["frames"] == 5
    assert float(re.search(r"([0-9.]+) GFLOP a step", about)[1]) > 0
    for line, name in ((plain, "plain"), (trainer, "trainer"), (last, "trainer")):
        assert line.split()[:2] == ["eager", name]
    samples, tokens = re.search(r" ([0-9.]+) samples/s +(\d+) tokens/s", plain).groups()
    assert float(tokens) / float(samples) == pytest.approx(2 * 4 * 4, rel=0.02)  # two latent frames
    assert re.search(r"GB  share +[0-9.]+%$", trainer)
    assert 0.3 < float(last.split()[-1]) < 3  # a busy machine; the figure itself is for docs


def test_operations_are_those_of_the_formulas(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    flops = importlib.import_module("step_flops")
    x, layer = torch.randn(7, 64), torch.nn.Linear(64, 32)
    forward = 2 * 7 * 64 * 32
    assert flops.counted(lambda: layer(x).sum().backward()) == 2 * forward  # none towards x
    heads = [torch.randn(2, 3, 10, 16, requires_grad=True) for _ in range(3)]
    attend = torch.nn.functional.scaled_dot_product_attention
    scores = 2 * 2 * 3 * 10 * 10 * 16
    assert flops.counted(lambda: attend(*heads)) == 2 * scores
    assert flops.counted(lambda: attend(*heads).sum().backward()) == 7 * scores
    assert flops.Speed(flops=50.0, peak=100.0).share(2.0) == 0.25


def test_a_wrong_size_is_an_error_of_the_command_line(run_benchmark):
    with pytest.raises(SystemExit):
        run_benchmark("train_step", "--model", "d48w1")
    with pytest.raises(SystemExit):
        run_benchmark("train_step", "--small", "--frames", "4")


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
