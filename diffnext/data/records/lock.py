# SPDX-License-Identifier: Apache-2.0
"""One writer at a time: a lock on a folder, which the kernel lifts however its holder ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import warnings
from collections.abc import Mapping
from typing import Any

LOCK = "diffnext.lock"


class InUse(ValueError):
    """Somebody else writes to a folder.

    Args:
        folder: where.
        holder: who, as the file of the lock says.
    """

    def __init__(self, folder: str, holder: str) -> None:
        super().__init__(
            f"{folder} is being written to by {holder}; wait until it has ended, or choose another "
            "folder"
        )
        self.holder = holder


class FolderLock:
    """A folder that nobody else may write to, until `release` or the end of the process.

    A file in the folder names the holder. What a killed process leaves of it locks nothing.

    Args:
        folder: made if it is not there, with those that it lies in; what was made is removed on
            release if nothing came into it.

    Raises:
        InUse: somebody else holds it; the message says who.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)
        self._path = os.path.join(self.folder, LOCK)
        self._made = _missing(self.folder)
        self._file = _locked(self._path)
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        self.holder = _words(holder)
        self._file.truncate(0)
        self._file.write(json.dumps(holder).encode())

    def release(self) -> None:
        """Let others write. Again: nothing."""
        if self._file.closed:
            return
        if _in_place(self._file, self._path):
            os.unlink(self._path)
        self._file.close()
        with contextlib.suppress(OSError):  # not empty, as a rule
            for folder in self._made:
                os.rmdir(folder)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _missing(folder: str) -> list[str]:
    """The folder and those that it lies in, as far as they are not there; itself first."""
    missing = []
    while folder and not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def _locked(path: str) -> io.FileIO:
    """Open and lock the file; again where a holder removed it between the two."""
    while True:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        try:
            file = io.FileIO(path, "a+")
        except FileNotFoundError:  # a holder that wrote nothing removed the folder
            continue
        try:
            _lock(file)
        except BlockingIOError:
            with file:
                raise InUse(os.path.dirname(path), _holder(file)) from None
        if _in_place(file, path):
            return file
        file.close()


def _lock(file: io.FileIO) -> None:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError) as error:  # some network file systems lock nothing
        warnings.warn(
            f"{file.name} cannot be locked ({error}); see to it that nobody else writes here",
            stacklevel=5,
        )


def _holder(file: io.FileIO) -> str:
    file.seek(0)
    try:
        return _words(json.loads(file.read()))
    except ValueError:  # not yet written
        return "another process"


def _words(holder: Mapping[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}"


def _in_place(file: io.FileIO, path: str) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
