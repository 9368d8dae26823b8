# SPDX-License-Identifier: Apache-2.0
"""Record folders are read at random, and damage is named."""

from __future__ import annotations

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffnext.data.records import RecordError, open_reader, open_writer
from diffnext.data.records.folder_reader import FolderReader
from diffnext.data.records.index import (
    ALIGN,
    MAGIC,
    SIDECAR,
    adopt_copy,
    is_sound,
    load,
    save,
    text_state,
)
from tests.data.record_rows import FIELDS, SHAPES, read_all, record, same, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "cache", 20, max_examples=6)


def test_records_come_back(folder):
    reader = open_reader(folder)
    assert len(reader) == 20
    for i in (19, 0, 7, 6, 5):
        assert same(reader[i], record(i))


def test_shards_are_cut_by_count_or_by_bytes(folder, tmp_path):
    assert [p.name for p in sorted(folder.glob("*.data"))] == [f"0000{i}.data" for i in range(4)]
    by_bytes = write(tmp_path / "bytes", 12, shard_bytes=1500)
    sizes = [p.stat().st_size for p in by_bytes.glob("*.data")]
    assert len(sizes) > 1 and max(sizes) <= 1500
    assert len(read_all(by_bytes)) == 12


def test_a_record_larger_than_a_shard_gets_its_own(tmp_path):
    folder = write(tmp_path / "c", 3, shard_bytes=10)
    assert len(list(folder.glob("*.data"))) == 3 and len(read_all(folder)) == 3


def test_a_payload_is_read_straight_into_memory(folder):
    reader = open_reader(folder)
    order = [*range(20), *range(19, -1, -1)]  # first by copy, then by a scattered read
    rows = [record(i) for i in order]
    outs = [memoryview(bytearray(row["moments"].nbytes)) for row in rows]
    for rest, out, row in zip(reader.read_into(order, "moments", outs), outs, rows, strict=True):
        assert "moments" not in rest and same({**rest, "moments": out}, row)


def test_payloads_at_changing_places_are_found(tmp_path):
    """Captions before the moments move them about, as other writers may do."""
    fields = {"caption": "string", "bytes": "bytes"}
    rows = [{"caption": "x" * (i % 5 * 50), "bytes": bytes([i]) * 64} for i in range(20)]
    with open_writer(tmp_path / "c", fields) as writer:
        for row in rows:
            writer.write(row)
    reader = open_reader(tmp_path / "c")
    for i, row in enumerate(rows):
        out = memoryview(bytearray(64))
        assert reader.read_into([i], "bytes", [out]) == [{"caption": row["caption"]}]
        assert out == row["bytes"]


def test_a_payload_of_another_size_is_refused(folder):
    with pytest.raises(
        RecordError, match=r"00000.data record 1 .* 384 bytes of 'moments', wanted 10"
    ):
        open_reader(folder).read_into([1], "moments", [memoryview(bytearray(10))])


def test_a_payload_that_is_smaller_than_others_is_refused_at_the_end_of_a_shard(tmp_path):
    """Where reading on gives as many bytes as the record has, whatever was asked for."""
    with open_writer(tmp_path / "c", {"moments": "bytes"}) as writer:
        for size in (64, 30):
            writer.write({"moments": bytes(size)})
    reader, outs = open_reader(tmp_path / "c"), [memoryview(bytearray(64)) for _ in range(2)]
    with pytest.raises(RecordError, match=r"record 1 .* 30 bytes of 'moments', wanted 64"):
        reader.read_into([0, 1], "moments", outs)
    with pytest.raises(RecordError, match=r"record 1 .* 30 bytes of 'moments', wanted 64"):
        reader.read_into([0, 1], "moments", outs)


def test_numbers_outside_are_refused(folder):
    reader = open_reader(folder)
    for number in (20, -1):
        with pytest.raises(IndexError, match=f"record {number} of .* has 20"):
            reader[number]


def test_a_reader_can_be_pickled_forked_and_shared(folder):
    reader = open_reader(folder)
    reader[3]
    assert same(pickle.loads(pickle.dumps(reader))[7], record(7))
    with ThreadPoolExecutor(8) as pool:
        numbers = list(range(20)) * 20
        assert all(pool.map(lambda i: same(reader[i], record(i)), numbers))
    child = os.fork()
    if not child:
        os._exit(0 if all(same(reader[i], record(i)) for i in range(20)) else 1)
    assert all(same(reader[i], record(i)) for i in range(20))
    assert os.waitpid(child, 0)[1] == 0


def test_more_shards_than_may_be_open(tmp_path):
    folder = write(tmp_path / "c", 30, max_examples=1)
    reader = open_reader(folder)
    reader._files.limit = 4
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda i: same(reader[i % 30], record(i % 30)), range(300)))
    assert len(reader._files._open) <= 4


def test_several_folders_leave_files_to_the_process(tmp_path):
    """Of datasets with more shards together than a process may open."""
    resource = pytest.importorskip("resource")
    folder = write(tmp_path / "c", 30, max_examples=1)
    readers = [open_reader(folder) for _ in range(6)]
    used = len(os.listdir("/dev/fd"))
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * used + 40, old[1]))
    try:
        for reader in readers:
            assert [reader[i]["caption"] for i in range(30)]
        others = [open(os.devnull) for _ in range(10)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
    for stream in others:
        stream.close()


def test_shapes_are_known_from_writing_and_found_by_reading(folder):
    shapes, ids = open_reader(folder).shapes()
    assert shapes == [(8, 2, 4, 6), (8, 4, 6), (8, 6, 4)]
    assert [shapes[i] for i in ids] == [tuple(record(i)["shape"]) for i in range(20)]
    (folder / SIDECAR).unlink()
    again, found = open_reader(folder).shapes()
    assert again == shapes and found.tolist() == ids.tolist()


def test_one_shape_needs_no_table(tmp_path):
    with open_writer(tmp_path / "c", FIELDS) as writer:
        for i in range(3):
            writer.write(record(i, shapes=SHAPES[:1]))
    assert open_reader(tmp_path / "c").shapes() == ([(8, 4, 6)], None)


# ------------------------------------------------------------------------------- the index


def test_the_index_is_mapped_the_second_time(folder, monkeypatch):
    assert (folder / SIDECAR).exists()
    monkeypatch.setattr("diffnext.data.records.index_text.parse", None)
    assert same(open_reader(folder)[19], record(19))


def test_a_changed_index_is_parsed_again(folder):
    text = folder / "00003.index"
    os.utime(text, ns=(1, 1))
    assert same(open_reader(folder)[19], record(19))
    text.write_text("".join(text.read_text().splitlines(keepends=True)[:1]))
    with pytest.raises(RecordError, match="METADATA says 20 records, the index files list 19"):
        open_reader(folder)


def test_a_damaged_copy_of_the_index_is_not_used(folder):
    copy = folder / SIDECAR
    whole = copy.read_bytes()
    for broken in (b"", b"noise", whole[: len(whole) // 2]):
        copy.write_bytes(broken)
        assert same(open_reader(folder)[13], record(13))


def flip_byte(file, place):
    """Change one bit of a byte."""
    data = bytearray(file.read_bytes())
    data[place] ^= 0x10
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["offset", "size", "sums", "order"])
def test_a_wrong_byte_in_a_copy_of_the_index_is_found(folder, name, monkeypatch):
    """When a small one is opened; of a large one the rest must be right, and a tool can tell."""
    reader, copy = open_reader(folder), folder / SIDECAR
    flip_byte(copy, copy.read_bytes().index(getattr(reader.index, name).tobytes()) + 3)
    state = text_state(str(folder))
    assert load(str(folder), state) is None and not is_sound(str(folder))
    assert same(open_reader(folder)[13], record(13))
    monkeypatch.setattr("diffnext.data.records.index.SMALL", 100)
    assert load(str(folder), state) is not None


def test_a_wrong_number_in_the_head_of_a_copy_is_found(folder):
    copy, state = folder / SIDECAR, text_state(str(folder))
    flip_byte(copy, copy.read_bytes().index(b'"counts": [') + 11)
    assert load(str(folder), state) is None and not is_sound(str(folder))


def test_a_copy_of_the_index_without_a_checksum_is_used(folder):
    """As earlier versions wrote it."""
    copy, state = folder / SIDECAR, text_state(str(folder))
    magic, head, _ = copy.read_bytes().split(b"\n", 2)
    old = {key: value for key, value in json.loads(head).items() if key != "checksum"}
    start = -(-(len(magic) + len(head) + 2) // ALIGN) * ALIGN
    text = magic + b"\n" + json.dumps(old).encode() + b"\n"
    copy.write_bytes(text.ljust(-(-len(text) // ALIGN) * ALIGN) + copy.read_bytes()[start:])
    assert is_sound(str(folder)) and len(load(str(folder), state)) == 20


def wrong_heads(head):
    """What a damaged or a foreign file could say of its arrays."""
    yield from ([], "noise", {"state": head["state"]}, {**head, "shapes": 3})
    rows = head["arrays"]
    for wrong in (["size", "<i4"], ["order", "|O"], ["noise", "<i8"]):
        yield {**head, "arrays": [*rows[:3], [*wrong, 20], *rows[4:]]}
    yield {**head, "arrays": [[name, kind, -count] for name, kind, count in rows]}
    yield {**head, "arrays": [[name, kind, f"{count}"] for name, kind, count in rows]}
    yield {**head, "arrays": [["offset", "|O", 20], *[row for row in rows if row[0] != "offset"]]}


def test_a_copy_with_a_damaged_head_is_not_used(folder):
    """Arrays of other types above all: numpy would take bytes of a file for objects in memory."""
    copy = folder / SIDECAR
    _, text, rest = copy.read_bytes().split(b"\n", 2)
    head = {key: value for key, value in json.loads(text).items() if key != "checksum"}
    for wrong in wrong_heads(head):
        text = MAGIC + json.dumps(wrong).encode() + b"\n"
        copy.write_bytes(text.ljust(-(-len(text) // ALIGN) * ALIGN) + rest.lstrip(b" "))
        adopt_copy(str(folder))
        assert load(str(folder), text_state(str(folder))) is None
        assert read_all(folder)[13]["caption"] == record(13)["caption"]


def wrong_copies(index):
    """Copies that a writer could have left which did not know all of the folder."""
    shorter = np.delete(index.first, 1)  # speaks of one shard less
    yield replace(index, first=shorter)
    yield replace(index, first=np.append(index.first, index.first[-1]))
    yield replace(index, first=index.first + 1)
    yield replace(index, first=index.first[[0, 2, 1, *range(3, len(index.first))]])
    yield replace(index, size=index.size[:-1])
    yield replace(index, ends=index.ends[:-1])
    yield replace(index, sums=index.sums[:-1])
    yield replace(index, order=index.order[:-1])
    yield replace(index, counts=(1, 2, 3))
    whole = {name: getattr(index, name)[:-1] for name in ("offset", "size", "sums")}
    whole |= {"order": None, "shapes": None}
    yield replace(index, first=np.minimum(index.first, 19), **whole)  # METADATA says 20


def test_a_copy_that_does_not_fit_the_text_is_not_used(folder):
    reader = open_reader(folder)
    for wrong in wrong_copies(reader.index):
        save(str(folder), wrong, text_state(str(folder)))
        again = open_reader(folder)
        assert [same(again[i], record(i)) for i in range(20)] == [True] * 20
        assert len(again.shapes()[1]) == 20


def test_the_index_takes_little_memory(folder):
    index = open_reader(folder).index
    arrays = [index.offset, index.size, index.sums, index.order]
    assert sum(array.nbytes for array in arrays) <= 24 * len(index)


def test_millions_of_records_open_quickly(tmp_path):
    """A sparse shard with a generated index; the first opening parses, the second maps."""
    count, size = 1_000_000, 300
    offsets = np.arange(count) * size
    lines = "\n".join(map("{} {}".format, offsets.tolist(), [size] * count)) + "\n"
    (tmp_path / "00000.index").write_text(lines)
    with open(tmp_path / "00000.data", "wb") as stream:
        stream.truncate(count * size)
    metadata = {"entries": count, "features": {"moments": "BYTES"}, "version": 1}
    (tmp_path / "METADATA").write_text(json.dumps(metadata))
    assert len(FolderReader(tmp_path)) == count
    assert (tmp_path / SIDECAR).stat().st_size < 13 * count
    again = FolderReader(tmp_path)
    assert again.index.locate(count - 1) == (0, (count - 1) * size, size, 0)
    assert isinstance(again.index.offset.base, np.memmap)


# ----------------------------------------------------------------------------------- damage


def test_no_folder_and_no_records(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        open_reader(tmp_path / "none")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RecordError, match=r"no records of a known format.*notes\.txt"):
        open_reader(tmp_path)


def test_a_missing_shard_is_named(folder):
    (folder / "00002.data").unlink()
    with pytest.raises(RecordError, match=r"00002\.data is missing"):
        open_reader(folder)


@pytest.mark.parametrize("with_copy", [True, False])
def test_a_truncated_shard_names_shard_and_record(folder, with_copy):
    if not with_copy:
        (folder / SIDECAR).unlink()
    shard = folder / "00001.data"
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(RecordError, match=r"00001\.data has \d+ bytes, but its record 5 ends at"):
        open_reader(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("12 x", r"00001\.index line 3 is b'12 x'"),
        ("12", r"00001\.index line 3 is b'12'"),
        ("1 200", r"line 3 puts record 2 at byte 1, but record 1 ends at"),
        ("930 99999999", r"line 4 puts record 3 at byte \d+, but record 2 ends at 100000929"),
    ],
)
def test_a_damaged_index_names_the_line(folder, line, message):
    text = folder / "00001.index"
    lines = text.read_text().splitlines()
    lines[2] = line
    text.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordError, match=message):
        open_reader(folder)


def test_damaged_bytes_name_shard_and_record(folder):
    reader = open_reader(folder)
    shard, offset, *_ = reader.index.locate(8)
    with open(folder / f"0000{shard}.data", "r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xff")
    with pytest.raises(RecordError, match=r"00001\.data record 2 \(number 8 .*is damaged"):
        reader[8]
    assert same(reader[9], record(9))


def test_no_metadata_reads_what_is_complete_and_warns(folder):
    (folder / "METADATA").unlink()
    with open(folder / "00003.index", "a") as stream:
        stream.write("99999 12")  # torn
    with pytest.warns(UserWarning, match="20 complete records are read, 1 torn"):
        reader = open_reader(folder)
    assert [same(reader[i], record(i)) for i in range(20)] == [True] * 20


def test_no_metadata_drops_records_without_their_bytes(folder):
    (folder / "METADATA").unlink()
    shard = folder / "00003.data"
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.warns(UserWarning, match="19 complete records are read, 1 torn"):
        assert len(open_reader(folder)) == 19
