# SPDX-License-Identifier: Apache-2.0
"""The benchmarks measure networks of the published sizes, and run as scripts."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("model", "billions"), [("d48w768", 0.3), ("d48w1024", 0.6), ("d48w1536", 1.4)]
)
def test_networks_have_their_published_sizes(model, billions):
    network = runpy.run_path(str(FOLDER / "models.py"))["network"]
    with torch.device("meta"):
        net = network(model, size=(512, 512), tokens=256)
    count = sum(p.numel() for p in net.parameters())
    assert count / 1e9 == pytest.approx(billions, abs=0.1)  # one figure is published


@pytest.mark.parametrize("name", ["generate", "train_step"])
def test_a_benchmark_is_a_script(name):
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--help"]
    env = {"PYTHONPATH": str(FOLDER.parent), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "{d48w1024,d48w1536,d48w768,small}" in done.stdout
