# SPDX-License-Identifier: Apache-2.0
"""The benchmark of sampling runs and prints what it measured."""

import re


def test_the_small_benchmark_prints_time_and_memory(run_benchmark, capsys):
    run_benchmark("generate", "--small", "--no-compile", "--repeats", "1")
    line = capsys.readouterr().out.splitlines()[-1]
    found = re.fullmatch(
        r"eager +median +(\S+) s +best +(\S+) s +(\S+) pictures/s +peak +(\S+) GiB", line
    )
    median, best, rate, peak = map(float, found.groups())
    assert 0 < best <= median < 60
    assert abs(rate * median - 1) < 0.1  # one picture; both are rounded
    assert 0 < peak < 24
