# SPDX-License-Identifier: Apache-2.0
"""Files are whole or absent."""

import json
import os
from pathlib import Path

import pytest

import diffnext
from diffnext.utils import files


def test_text_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    files.write_json(path, {"step": 1})

    def fail(*names):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_json(path, {"step": 2})
    assert json.loads(path.read_text()) == {"step": 1}
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_draft_that_fails_is_removed(tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(b"old")

    def draft():
        with files.replacing(path) as aside:
            aside.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draft()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.pt"]


def test_the_content_is_on_the_disk_before_its_name_and_the_name_thereafter(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace

    def fsync(handle):
        done.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    def rename(old, new):
        done.append("rename")
        replace(old, new)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to tell which file was synced")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    files.write_bytes(tmp_path / "index", b"ab", memoryview(b"c"), bytearray(b"d"))
    draft, *rest = done
    assert Path(draft).parent == tmp_path and Path(draft).name.endswith(".tmp")
    assert rest == ["rename", str(tmp_path)]
    assert (tmp_path / "index").read_bytes() == b"abcd"


def test_the_draft_of_a_process_that_was_killed_is_removed(tmp_path):
    with files.replacing(tmp_path / "index") as draft:
        draft.write_bytes(b"ab")
        (tmp_path / ".index.tmp").touch()
        files.remove_drafts(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".index.tmp"]
        draft.touch()


def test_there_is_one_way_to_replace_a_file():
    package = Path(diffnext.__file__).parent
    found = [p for p in package.rglob("*.py") if "os.replace(" in p.read_text(encoding="utf-8")]
    assert found == [Path(files.__file__)]


def test_text_is_utf_8_under_every_locale(tmp_path):
    files.write_text(tmp_path / "a", "\u96ea")
    assert (tmp_path / "a").read_bytes() == "\u96ea".encode()


def test_a_folder_gets_its_name_when_it_is_finished(tmp_path):
    aside = tmp_path / ".new"
    (aside / "sub").mkdir(parents=True)
    (aside / "sub/a").write_text("abc")
    files.promote(aside, tmp_path / "deep/new")
    assert not aside.exists()
    assert files.sizes(tmp_path / "deep/new") == {"sub/a": 3}


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    new, final, left = tmp_path / ".b.tmp", tmp_path / "b", tmp_path / ".b.old"
    for folder in (new, final, left):
        folder.mkdir()
        (folder / folder.name).touch()
    files.promote(new, final, replace=True)
    assert files.sizes(tmp_path) == {"b/.b.tmp": 0}


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(FileExistsError, match="b exists and is not overwritten"):
        files.promote(tmp_path / "a", tmp_path / "b")
