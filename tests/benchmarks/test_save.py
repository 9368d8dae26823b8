# SPDX-License-Identifier: Apache-2.0
"""The benchmark of saving runs, and standing still is shorter beside the steps."""


def test_the_small_benchmark_prints_both_ways(run_benchmark, capsys):
    run_benchmark("save", "--small")
    lines = capsys.readouterr().out.splitlines()
    assert "GiB a checkpoint" in lines[1]
    between, beside = (line.split() for line in lines[2:4])
    assert (between[0], beside[0]) == ("between", "beside")
    assert float(beside[6]) < float(between[6]) <= float(between[10])
