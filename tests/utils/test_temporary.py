# SPDX-License-Identifier: Apache-2.0
"""A temporary folder goes with its block, and that of a killed process with the next one."""

import errno
import fcntl
import os
import signal
import tempfile

import pytest

from diffnext.utils.temporary import is_left, temporary_folder


@pytest.fixture(autouse=True)
def top(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_goes_with_its_block(top):
    with pytest.raises(ValueError, match="mine"), temporary_folder() as folder:
        assert os.listdir(top) == [os.path.basename(folder)]
        os.mkdir(os.path.join(folder, "a"))
        raise ValueError("mine")
    assert os.listdir(top) == []


def test_that_of_a_killed_process_goes_with_the_next_and_one_in_use_stays(top):
    (top / "diffnext-other").mkdir()
    child = os.fork()
    if not child:
        try:
            with temporary_folder():
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    [left] = set(os.listdir(top)) - {"diffnext-other"}
    assert is_left(top / left) and is_left(top / "none")
    (top / left / "file").touch()
    with temporary_folder() as first, temporary_folder() as second:
        assert not is_left(first)
        names = {os.path.basename(folder) for folder in (first, second)}
        assert set(os.listdir(top)) == {"diffnext-other", *names}
    assert os.listdir(top) == ["diffnext-other"]


def test_a_file_system_without_locks_will_do(top, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refuse)
    with temporary_folder() as folder:
        assert not is_left(folder)
        with temporary_folder():
            assert os.path.isdir(folder)
    assert os.listdir(top) == []


def refuse(*_):
    raise OSError(errno.EBADF, "Bad file descriptor")
