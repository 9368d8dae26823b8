# SPDX-License-Identifier: Apache-2.0
"""Record folders are written so that what was written stays."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import diffnext
from diffnext.data.records import open_reader, open_writer, read_identity, write_identity
from diffnext.data.records.files import write_all
from diffnext.data.records.lock import LOCK, FolderLock
from tests.data.record_rows import FIELDS, damaged, read_all, record, same, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "cache", 20, max_examples=6)


def test_a_folder_with_records_is_not_written_over(folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ValueError, match="holds records already; pass append=True"):
        open_writer(folder, FIELDS)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_other_files_do_not_hinder(tmp_path):
    write_identity(tmp_path, {"vae": "x"})
    assert len(read_all(write(tmp_path, 2))) == 2


def test_appending_goes_on_in_a_new_shard(folder):
    before = (folder / "00003.data").read_bytes()
    write(folder, 3, first=20, append=True)
    assert (folder / "00003.data").read_bytes() == before and (folder / "00004.data").exists()
    assert [same(r, record(i)) for i, r in enumerate(read_all(folder))] == [True] * 23
    shapes, ids = open_reader(folder).shapes()
    assert [shapes[i] for i in ids] == [tuple(record(i)["shape"]) for i in range(23)]
    assert json.loads((folder / "METADATA").read_text())["entries"] == 23


def test_appending_other_fields_is_refused(folder):
    with pytest.raises(ValueError, match="has the fields"):
        open_writer(folder, {"moments": "bytes"}, append=True)
    assert len(read_all(folder)) == 20


@pytest.mark.parametrize("stem", ["photos", "003"])
def test_appending_to_shards_that_would_sort_behind_is_refused(folder, stem):
    for ending in (".data", ".index", ".check"):
        (folder / f"00003{ending}").rename(folder / f"{stem}{ending}")
    with pytest.raises(ValueError, match=f"without a number of 5 digits, as {stem}"):
        open_writer(folder, FIELDS, append=True)
    assert len(read_all(folder)) == 20


def test_appending_to_nothing_begins(tmp_path):
    assert len(read_all(write(tmp_path / "new", 2, append=True))) == 2


def test_an_empty_folder_of_records(tmp_path):
    folder = write(tmp_path / "c", 0)
    assert len(open_reader(folder)) == 0
    assert len(read_all(write(folder, 2, append=True))) == 2


def test_an_error_in_the_block_leaves_the_folder_unfinished(tmp_path):
    with pytest.raises(KeyError), open_writer(tmp_path, FIELDS) as writer:
        writer.write(record(0))
        raise KeyError
    assert not (tmp_path / "METADATA").exists()
    with pytest.warns(UserWarning, match="1 complete"):
        assert len(open_reader(tmp_path)) == 1


def test_writing_after_close_is_refused(tmp_path):
    writer = open_writer(tmp_path, FIELDS)
    writer.write(record(0))
    writer.close()
    writer.close()
    with pytest.raises(RuntimeError, match="is closed"):
        writer.write(record(1))


def test_a_failed_write_leaves_the_records_before_it(tmp_path, monkeypatch):
    import diffnext.data.records.folder_writer as module

    writer = open_writer(tmp_path, FIELDS)
    writer.write(record(0))
    whole = module.write_all

    def full_disk(stream, pieces):
        whole(stream, [b"part of a record"])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_all", full_disk)
    with pytest.raises(OSError, match="No space"):
        writer.write(record(1))
    monkeypatch.setattr(module, "write_all", whole)
    writer.write(record(2))
    writer.close()
    assert [same(r, record(i)) for i, r in zip((0, 2), read_all(tmp_path), strict=True)] == [
        True
    ] * 2


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path):
    with open_writer(tmp_path, FIELDS) as first:
        first.write(record(0))
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        with pytest.raises(ValueError, match=f"written to by process {os.getpid()} on "):
            open_writer(tmp_path, FIELDS, append=True)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert not (tmp_path / LOCK).exists()
    write(tmp_path, 1, first=1, append=True)
    assert [same(r, record(i)) for i, r in enumerate(read_all(tmp_path))] == [True] * 2


def test_a_writer_that_cannot_begin_leaves_the_folder_free(folder):
    with pytest.raises(ValueError, match="pass append=True"):
        open_writer(folder, FIELDS)
    assert len(read_all(write(folder, 1, first=20, append=True))) == 21


def test_a_lock_file_without_a_holder_locks_nothing(folder):
    (folder / LOCK).write_text('{"pid": 1, "host": "gone"}')
    assert len(read_all(write(folder, 1, first=20, append=True))) == 21


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=r"cannot be locked .*No locks available"):
        folder = write(tmp_path / "cache", 2)
    assert len(read_all(folder)) == 2


def test_a_lock_removes_the_folder_that_nothing_came_into(tmp_path):
    with FolderLock(tmp_path / "new") as lock:
        assert (tmp_path / "new" / LOCK).exists()
    lock.release()
    assert not (tmp_path / "new").exists() and tmp_path.exists()


def test_a_writer_works_under_the_lock_of_its_caller(tmp_path):
    with FolderLock(tmp_path) as lock:
        write(tmp_path, 1, lock=lock)
        with pytest.raises(ValueError, match="is being written to"):
            open_writer(tmp_path, FIELDS, append=True)


ROOT = Path(diffnext.__file__).parents[1]
KILLED = """
import sys
from diffnext.data.records import open_writer
from tests.data.record_rows import FIELDS, record
writer = open_writer(sys.argv[1], FIELDS, max_examples=40, append=True)
i = len(writer)
while True:
    writer.write(record(i))
    i += 1
    print(i, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_returned_from(tmp_path):
    folder = tmp_path / "cache"
    done = 0
    for wanted in (7, 95, 130):
        command = [sys.executable, "-W", "ignore", "-c", KILLED, str(folder)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                done = int(line)
                if done >= wanted:
                    child.send_signal(signal.SIGKILL)
                    break
            child.stdout.read()
        with warnings.catch_warnings(record=True):
            rows = read_all(folder)
        assert len(rows) >= done
        assert all(same(row, record(i)) for i, row in enumerate(rows))
    with pytest.warns(UserWarning, match="did not finish"):
        writer = open_writer(folder, FIELDS, append=True)
    writer.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(same(row, record(i)) for i, row in enumerate(read_all(folder)))
        reader = open_reader(folder)
        assert reader.checked == len(reader) and not damaged(reader)
    lines = sum(len(p.read_text().splitlines()) for p in folder.glob("*.index"))
    assert lines == json.loads((folder / "METADATA").read_text())["entries"]


# ---------------------------------------------------------------------------------- identity


def test_identity_is_kept_beside_the_records(folder):
    assert read_identity(folder) is None
    write_identity(folder, {"vae": {"class": "AutoencoderKL"}, "note": "\xe9"})
    write_identity(folder, {"vae": {"class": "AutoencoderKL"}, "note": "\xfc"})
    assert read_identity(folder) == {"vae": {"class": "AutoencoderKL"}, "note": "\xfc"}
    assert len(read_all(folder)) == 20
    shutil.copy(folder / "00000.data", folder / "diffnext.json")
    with pytest.raises(ValueError, match=r"diffnext\.json"):
        read_identity(folder)


# ------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("taken", [0, 1, 5, 6, 11, 17])
def test_all_is_written_however_little_the_system_takes(tmp_path, monkeypatch, taken):
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, pieces: writev(fd, [b"".join(pieces)[:taken]]))
    with io.FileIO(tmp_path / "f", "x") as stream:
        write_all(stream, [b"first,", b"", b"second,", memoryview(b"last")])
    assert (tmp_path / "f").read_bytes() == b"first,second,last"
