# SPDX-License-Identifier: Apache-2.0
"""Checksums: what was damaged is found and named, what was torn is recovered."""

from __future__ import annotations

import json
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from diffnext.data.records import DamagedRecord, layout, open_reader, open_writer
from diffnext.data.records.checks import checksum
from diffnext.data.records.index import SIDECAR
from tests.data.record_rows import FIELDS, damaged, read_all, record, same, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "cache", 20, max_examples=6)


def flip(folder: Path, number: int, byte: int) -> None:
    """Change one bit of a record; `byte` counts from its start or, below 0, from its end."""
    shard, offset, size, _ = open_reader(folder).index.locate(number)
    with open(folder / f"{shard:05d}.data", "r+b") as stream:
        stream.seek(offset + byte % size)
        value = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([value ^ 4]))


def read_payloads(folder: Path, **options) -> list[dict]:
    """All records, twice, so that the second pass reads each payload straight into memory."""
    reader = open_reader(folder)
    for _ in range(2):
        outs = [memoryview(bytearray(record(i)["moments"].nbytes)) for i in range(20)]
        rows = reader.read_into(range(20), "moments", outs, **options)
    return [{**row, "moments": out} for row, out in zip(rows, outs, strict=True)]


def test_the_sums_are_those_of_the_bytes_in_the_shard(folder):
    for index in folder.glob("*.index"):
        data = index.with_suffix(".data").read_bytes()
        rows = [tuple(map(int, line.split())) for line in index.read_text().splitlines()]
        wanted = [xxh3_64_intdigest(data[offset : offset + size]) for offset, size in rows]
        assert np.fromfile(index.with_suffix(".check"), "<u8").tolist() == wanted


def test_the_sum_is_xxh3_whatever_the_parts():
    assert checksum([]) == 0x2D06800538D394C2  # of no bytes, as xxhash's own documentation has it
    assert checksum([b"a", memoryview(b"bc"), b""]) == checksum([bytearray(b"abc")])


@pytest.mark.parametrize("byte", [0, 12, 60, 200, -1])
def test_a_changed_bit_is_found_wherever_it_is(folder, byte):
    flip(folder, 8, byte)
    message = r"00001\.data record 2 \(number 8 of the folder, byte \d+\) is damaged"
    with pytest.raises(DamagedRecord, match=message):
        open_reader(folder)[8]
    with pytest.raises(DamagedRecord, match=message):
        read_payloads(folder)
    found = damaged(open_reader(folder))
    assert list(found) == [8] and "00001.data record 2" in found[8]


def test_without_verification_a_changed_payload_passes(folder):
    flip(folder, 8, 200)
    rows = read_payloads(folder, verify=False)
    assert [same(row, record(i)) for i, row in enumerate(rows)] == [i != 8 for i in range(20)]


def test_any_of_many_samples_is_found(tmp_path):
    file = tmp_path / layout.SAMPLES
    for count in (700, 520):  # the second time they are other lines
        lines = [
            json.dumps({"key": f"k{i}", "path": "x" * (i % 7) + "\u00e9"}) for i in range(count)
        ]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for i in (0, 255, 256, 511, 512, count - 1):
            assert layout.sample_of(str(tmp_path), i) == f"sample k{i} of {'x' * (i % 7)}\u00e9"
        assert {layout.sample_of(str(tmp_path), i) for i in (count, 5000)} == {""}


def test_the_sample_is_named_where_it_is_known(folder):
    from diffnext.data.journal import JOURNAL

    assert layout.SAMPLES == JOURNAL
    entries = [json.dumps({"key": f"k{i}", "path": f"/media/{i}.png"}) for i in range(20)]
    (folder / JOURNAL).write_text("\n".join(entries) + "\n")
    flip(folder, 8, 70)
    with pytest.raises(DamagedRecord, match=r"sample k8 of /media/8\.png\) is damaged"):
        open_reader(folder)[8]


def test_a_folder_without_sums_is_read(folder):
    for file in folder.glob("*.check"):
        file.unlink()
    flip(folder, 8, 100)
    reader = open_reader(folder)
    assert reader.checked == 0 and not damaged(reader)
    assert not same(reader[8], record(8)) and same(reader[9], record(9))


def test_a_writer_may_leave_the_sums_out(tmp_path):
    folder = write(tmp_path / "c", 7, checksums=False)
    assert not list(folder.glob("*.check")) and open_reader(folder).checked == 0
    write(folder, 3, first=7, append=True)
    reader = open_reader(folder)
    assert reader.checked == 3 and len(read_all(folder)) == 10 and not damaged(reader)


def test_missing_sums_are_told_of(folder):
    check = folder / "00001.check"
    check.write_bytes(check.read_bytes()[:20])
    (folder / SIDECAR).unlink()
    with pytest.warns(UserWarning, match="4 records of shards that have checksums have none"):
        reader = open_reader(folder)
    assert reader.checked == 16
    assert [same(reader[i], record(i)) for i in range(20)] == [True] * 20


def test_sums_are_the_same_mapped_parsed_and_gone_on_with(folder):
    mapped = open_reader(folder).index.sums
    write(folder, 4, first=20, append=True)
    grown = open_reader(folder).index.sums
    (folder / SIDECAR).unlink()
    parsed = open_reader(folder).index.sums
    assert mapped.tolist() == grown[:20].tolist() and grown.tolist() == parsed.tolist()
    assert not damaged(open_reader(folder))


LAST = ("00003.data", "00003.check", "00003.index")


@pytest.mark.parametrize("parts", list(product((0, 0.5, 1), repeat=3)))
def test_a_shard_torn_anywhere_is_gone_on_with(folder, parts):
    """Killed at any write, or by a failing machine that kept any part of the last record's."""
    lines = (folder / "00003.index").read_text().splitlines(keepends=True)
    before = [int(lines[-1].split()[0]), 8 * (len(lines) - 1), len("".join(lines[:-1]))]
    for name, start, part in zip(LAST, before, parts, strict=True):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: start + round((len(content) - start) * part)])
    (folder / "METADATA").unlink()
    data, check, index = (part == 1 for part in parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the unfinished folder
        with open_writer(folder, FIELDS, append=True, max_examples=6) as writer:
            assert len(writer) == 19 + (data and index)
            for i in range(len(writer), 23):
                writer.write(record(i))
    reader = open_reader(folder)
    assert [same(row, record(i)) for i, row in enumerate(read_all(folder))] == [True] * 23
    assert reader.checked == 23 - (data and index and not check) and not damaged(reader)
