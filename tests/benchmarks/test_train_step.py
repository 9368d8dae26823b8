# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the training step runs, and both of its loops train the same network."""

import pytest


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
