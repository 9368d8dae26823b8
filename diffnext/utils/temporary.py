# SPDX-License-Identifier: Apache-2.0
"""Temporary folders of which none stays, however the process ends that made it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where what a killed process leaves is left
    fcntl = None

BEGUN = "diffnext-work-"  # how their names begin


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Give a new folder for the time of a block.

    A process that is killed in the block leaves it, and the next one that makes such a folder removes
    it: the maker holds a lock, which the kernel lifts however it ends.
    """
    top = Path(tempfile.gettempdir())
    if fcntl is not None:
        for left in top.glob(f"{BEGUN}*"):
            _remove_if_left(left)
    draft = tempfile.mkdtemp(prefix=f".{BEGUN}", dir=top)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # of a file system without locks
            held.enter_context(_locked(draft))
        folder = top / os.path.basename(draft)[1:]  # locked from the moment that others see it
        os.rename(draft, folder)
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def is_left(folder: str | Path) -> bool:
    """Whether the process that made such a folder has ended; False where that is not known."""
    if not os.path.isdir(folder):
        return True
    with contextlib.suppress(OSError), _locked(folder):
        return fcntl is not None
    return False


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(OSError), _locked(folder):  # its maker is at work, or another user
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: str | Path) -> Iterator[None]:
    """Hold a folder.

    Raises:
        BlockingIOError: another process does.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
