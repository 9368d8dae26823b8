# SPDX-License-Identifier: Apache-2.0
"""Files of the record stores: whole writes, positioned reads, a bounded set of open files."""

from __future__ import annotations

import io
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence

from diffnext.data.records.base import Buffer, RecordError

BEYOND = 1 << 62  # bytes; no file is so long
Job = tuple[int, int, Sequence[bytearray | memoryview]]
"""Number of a file, first byte to read, and the buffers that are filled one after another."""


def write_all(stream: io.FileIO, pieces: Sequence[Buffer]) -> None:
    """Write every byte to an unbuffered file, which may take fewer at once."""
    done = os.writev(stream.fileno(), pieces) if _at_once(pieces) else 0
    for piece in pieces:
        while done < len(piece):
            done += stream.write(memoryview(piece)[done:] if done else piece)
        done -= len(piece)


def scatter(data: bytes, buffers: Sequence[bytearray | memoryview]) -> int:
    """Fill buffers one after another; return how many bytes there were."""
    start = 0
    for buffer in buffers:
        part = data[start : start + len(buffer)]
        buffer[: len(part)] = part
        start += len(part)
    return start


def _at_once(pieces: Sequence[Buffer]) -> bool:
    """Whether one call of the system may take them all."""
    return hasattr(os, "writev") and 1 < len(pieces) <= 512


_FOLDERS: weakref.WeakSet[Files] = weakref.WeakSet()


class _Open:
    """A file that is closed when the last reference to it goes."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "descriptor"):
            close(self.descriptor)  # at the end of a program, `os` may be gone before


def _most_open() -> int:
    """Files that may be kept open, by all folders together; the other half is for everything else."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 256
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if most == resource.RLIM_INFINITY else most // 2


class Files:
    """The shards of a folder, opened when they are first read; at most `limit` are kept open, and of
    all folders together no more than half of the files that the process may open.

    Reads carry their own position, so threads and forked processes share a file. A file that
    is pushed out is closed when the last read on it has returned. A subclass may get the bytes
    from elsewhere: `sizes`, `read` and `read_into` are all that a reader asks for.
    """

    def __init__(self, folder: str, names: Sequence[str], limit: int = 256) -> None:
        self.paths = [os.path.join(folder, name) for name in names]
        self.limit = limit
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._lock = threading.Lock()
        _FOLDERS.add(self)

    def sizes(self) -> list[int]:
        """Bytes of each file.

        Raises:
            RecordError: one is missing.
        """
        try:
            return [os.path.getsize(path) for path in self.paths]
        except FileNotFoundError as error:
            raise RecordError(f"{error.filename} is missing, its index is there") from error

    def read_into(self, jobs: Sequence[Job]) -> list[int]:
        """Fill the buffers of each job; return how many bytes there were for each.

        All files are open before the first read: between two reads nothing else is done, as each
        pushes code and tables out of the processor's caches.
        """
        if not hasattr(os, "preadv"):
            return [self._copy_into(*job) for job in jobs]
        files = {number: self._file(number) for number in {job[0] for job in jobs}}
        return [os.preadv(files[n].descriptor, buffers, offset) for n, offset, buffers in jobs]

    def _copy_into(
        self, number: int, offset: int, buffers: Sequence[bytearray | memoryview]
    ) -> int:
        return scatter(self.read(number, offset, sum(map(len, buffers))), buffers)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on."""
        file = self._file(number)
        if hasattr(os, "pread"):
            return os.pread(file.descriptor, size, offset)
        with self._lock:
            os.lseek(file.descriptor, offset, os.SEEK_SET)
            return os.read(file.descriptor, size)

    def close(self) -> None:
        with self._lock:
            self._open.clear()

    def _file(self, number: int) -> _Open:
        file = self._open.get(number)
        if file is not None and len(self.paths) <= self.limit:
            return file  # it stays open: no lock is needed
        with self._lock:
            file = self._open.get(number)
            if file is None:
                file = self._open[number] = _Open(self.paths[number])
                most = min(self.limit, max(1, _most_open() // len(_FOLDERS)))
                while len(self._open) > most:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(number)
            return file


class PatientFiles(Files):
    """Shards that may be missing or too short: what is in vain is only to read what is not there."""

    def sizes(self) -> list[int]:
        """More than any index asks for."""
        return [BEYOND] * len(self.paths)
