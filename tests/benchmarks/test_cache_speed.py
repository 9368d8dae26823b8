# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of the cache run and print the figures that they promise."""

import re

import pytest


def test_reading_is_compared_with_the_floor_and_with_other_formats(run_benchmark, capsys):
    options = ("--gib", "0.01", "--seconds", "0.1", "--only", "inline,1 thread,npz")
    run_benchmark("cache_read", "--kind", "image", *options)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"load of the machine: \d+\.\d, cores: \d+", lines[0])
    assert lines[1] == "40 records of 262144 bytes, shuffled, in batches of 16"
    names = [line[:20].strip() for line in lines[3:]]
    assert names == ["diffnext inline", "diffnext 1 thread", "npz", "floor (pread)"]
    rows = [line[20:].split() for line in lines[3:]]
    shares = [float(row[2]) for row in rows]
    assert shares[2] < shares[0] < 1.5 and shares[3] == 1
    assert [row[3] == "-" for row in rows] == [True, False, True, True]
    assert float(rows[1][3]) > 0


def test_an_index_is_opened_twice(run_benchmark, capsys):
    run_benchmark("cache_read", "--kind", "index", "--index", "20_000")
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines[0].startswith("20,000 records in 5 shards")
    size = float(lines[4].split()[2])
    assert lines[4].startswith("index file") and 24 <= size < 25


@pytest.mark.parametrize("kind", ["image", "video"])
def test_writing_is_compared_with_a_plain_write(run_benchmark, capsys, kind, tmp_path):
    run_benchmark("cache_write", "--gib", "0.01", "--kind", kind, "--dir", str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert [line[:20].strip() for line in lines[2:]] == [
        "plain write",
        "diffnext",
        "without checksum",
    ]
    assert float(lines[3].split()[3]) > 0 and not list(tmp_path.iterdir())


def test_what_a_build_takes_a_sample_is_measured_without_media(run_benchmark, capsys):
    run_benchmark("scale", "--counts", "200")
    lines = capsys.readouterr().out.splitlines()
    cells = {line[:22].strip(): line[22:].split() for line in lines[1:]}
    assert list(cells)[:4] == ["list", "plan, nothing built", "plan, all built", "plan, half built"]
    assert all(row[0] == "200" and float(row[1]) > 0 for row in cells.values())
