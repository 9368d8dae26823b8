# SPDX-License-Identifier: Apache-2.0
"""Hashes of files are right, and remembered only while the files stay."""

import hashlib
import os

import pytest

from diffnext.utils import hashes


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hashes, "MEMO_BYTES", 4)
    return tmp_path / "home"


def test_files_are_hashed_one_after_another(tmp_path):
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "b").write_bytes(b"second")
    wanted = hashlib.sha256(b"firstsecond").hexdigest()
    for _ in range(2):
        assert hashes.sha256_of([tmp_path / "a", str(tmp_path / "b")]) == wanted


def test_a_file_that_stays_is_not_read_again(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    first = hashes.sha256_of([file])
    monkeypatch.setattr(hashes, "_digest", lambda paths: pytest.fail("read again"))
    assert hashes.sha256_of([file]) == first


def test_an_edit_that_hides_its_time_is_seen(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    times = file.stat()
    first = hashes.sha256_of([file])
    file.write_bytes(b"Weights")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hashes.sha256_of([file]) == hashlib.sha256(b"Weights").hexdigest() != first


def test_small_files_leave_nothing_behind(tmp_path, home):
    (tmp_path / "a").write_bytes(b"abc")
    hashes.sha256_of([tmp_path / "a"])
    assert not home.exists()


def test_a_home_that_cannot_be_written_to_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "a").write_bytes(b"weights")
    assert hashes.sha256_of([tmp_path / "a"]) == hashlib.sha256(b"weights").hexdigest()
