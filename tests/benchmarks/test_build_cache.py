# SPDX-License-Identifier: Apache-2.0
"""The benchmark of builds runs and prints what it measured."""

import re


def test_the_small_benchmark_prints_every_stage_and_the_ratios(run_benchmark, capsys):
    run_benchmark("build_cache", "--small")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("12 samples of 64 px from 96 px, batches of 8, 1 workers, cpu; ")
    assert float(re.fullmatch(r"start (\S+) s, until the first medium is decoded", lines[1])[1]) > 0
    rows = {line.split()[0]: list(map(float, line.split()[1:])) for line in lines[3:8]}
    assert list(rows) == ["decode", "encode", "write", "whole", "one_by_one"]
    assert all(rate > 0 and cpu > 0 for rate, _, cpu in rows.values())
    assert rows["whole"][1] == 1
    over, stage = re.search(
        r"takes (\S+) times as long as its slowest stage, (\w+)", lines[8]
    ).groups()
    assert rows[stage][1] == max(rows[name][1] for name in ("decode", "encode", "write"))
    assert abs(float(over) * rows[stage][1] - 1) < 0.05  # both are rounded
    assert re.fullmatch(r"one sample at a time takes \S+ times as long as the whole", lines[9])
