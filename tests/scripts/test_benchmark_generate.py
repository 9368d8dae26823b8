# SPDX-License-Identifier: Apache-2.0
"""The benchmark of sampling runs and prints what it measured."""

import re
import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "generate.py"


def test_the_small_benchmark_prints_time_and_memory(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--small", "--no-compile", "--repeats", "1"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    line = capsys.readouterr().out.splitlines()[-1]
    found = re.fullmatch(
        r"eager +median +(\S+) s +best +(\S+) s +(\S+) pictures/s +peak +(\S+) GiB", line
    )
    median, best, rate, peak = map(float, found.groups())
    assert 0 < best <= median < 60
    assert abs(rate * median - 1) < 0.1  # one picture; both are rounded
    assert 0 < peak < 24
