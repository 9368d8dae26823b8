# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of the cache run and print the figures that they promise."""

import pytest


def test_reading_is_compared_with_the_floor_and_with_other_formats(run_benchmark, capsys):
    run_benchmark("cache_read", "--gib", "0.01", "--seconds", "0.1", "--only", "inline,npz")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "40 records of 262144 bytes, shuffled, in batches of 16"
    names = [line[:20].strip() for line in lines[2:]]
    assert names == ["diffnext inline", "npz", "floor (pread)"]
    shares = [float(line[20:].split()[2]) for line in lines[2:]]
    assert shares[1] < shares[0] < 1.5 and shares[2] == 1


def test_an_index_is_opened_twice(run_benchmark, capsys):
    run_benchmark("cache_read", "--index", "20_000")
    lines = capsys.readouterr().out.splitlines()
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
