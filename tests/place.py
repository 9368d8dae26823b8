# SPDX-License-Identifier: Apache-2.0
"""A folder for all that a session of tests leaves outside it, which goes with it, as do its processes."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None

PLACE = "DIFFNEXT_TESTS"  # environment variable: the folder, which marks a session's processes
NAME = "diffnext-tests-"
LOCK = "lock"  # held by the session; the kernel lifts it however that ends


def settle() -> None:
    """Lead temporary files and caches of this process and its children to a folder of this session.

    Nothing that an earlier session has left is seen, and of those that were killed the rest is removed.
    A child that is aborted says where it was, and leaves no core.
    """
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.environ["PYTHONFAULTHANDLER"] = "1"
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # in the folder of the process that has started it
    top = Path(tempfile.gettempdir())
    for left in top.glob(f"{NAME}*"):
        _clear_if_left(left)
    draft = Path(tempfile.mkdtemp(prefix=f".{NAME}"))
    lock = _lock(draft)
    folder = draft.rename(top / draft.name[1:])  # locked from the moment that others see it
    (folder / "cache").mkdir()
    tempfile.tempdir = str(folder)
    os.environ |= {PLACE: str(folder), "TMPDIR": str(folder)}
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    atexit.register(_leave, folder, os.getpid(), lock)


def started(place: str) -> Iterator[psutil.Process]:
    """Processes of the session that has this folder, but for those whose environment none may read."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(PLACE) == place:
                yield process


def _lock(folder: Path) -> int:
    """Hold a folder; returns what holds it.

    Raises:
        BlockingIOError: another process does.
    """
    handle = os.open(folder / LOCK, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _clear_if_left(folder: Path) -> None:
    """Remove the folder of a session that was killed, and end what it had started."""
    with contextlib.suppress(OSError):  # it is not over, or somebody else's
        lock = _lock(folder)
        _clear(folder)
        os.close(lock)


def _leave(folder: Path, owner: int, lock: int) -> None:
    if os.getpid() == owner:  # and not a fork
        _clear(folder)
        os.close(lock)


def _clear(folder: Path) -> None:
    for process in started(str(folder)):
        with contextlib.suppress(psutil.Error):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)
