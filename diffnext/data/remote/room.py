# SPDX-License-Identifier: Apache-2.0
"""A local folder of bounded size for copies of shards, shared by all processes of a node.

Each cache has a folder of its own in it, which a process that reads the cache holds with a shared lock.
A copy is written to a draft that has its full size from the beginning, so that what is on the disk
is also what is promised, and that its writer holds with a lock, so that one that nobody holds is
what a killed process left. A folder has its name only while all of it is there: it is filled, and it is
removed, under another one that begins with a point.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from diffnext.utils.files import move

try:
    import fcntl
except ImportError:  # without such locks no copies are kept
    fcntl = None

IN_USE = "in_use"
DRAFT = ".part"
HAS_LOCKS = fcntl is not None


class Room:
    """Says whether a copy may be made, and makes room for it.

    When the limit is reached, copies of caches that no process reads go first, the cache that was
    opened longest ago before others. Those of a cache that is being read stay: its records are
    asked for in random order, so any other choice of shards would serve as many of them.

    Args:
        folder: made if it is not there.
        limit_bytes: of all copies together; None for half of what the disk has for them.
    """

    def __init__(self, folder: str | os.PathLike[str], limit_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if limit_bytes is None:
            limit_bytes = (shutil.disk_usage(self.folder).free + self.used()) // 2
        self.limit_bytes = limit_bytes

    def used(self) -> int:
        """Bytes of all copies, those being made included."""
        total = 0
        for path in self.folder.glob("*/*.data*"):
            with contextlib.suppress(FileNotFoundError):  # a draft that was finished just now
                total += path.stat().st_size
        return total

    @contextlib.contextmanager
    def new(self, cache: Path) -> Iterator[Path]:
        """Give a folder to fill, which becomes `cache` after the block, or goes if that is there."""
        aside = _aside(cache)
        with contextlib.ExitStack() as held:
            with locked(self.folder / "lock"):
                self._remove_abandoned()
                if cache.is_dir() and not (cache / IN_USE).exists():  # not one that was ever whole
                    shutil.rmtree(cache)
                aside.mkdir()
                mark = held.enter_context(open(aside / IN_USE, "a+b"))
                _try_lock(mark, exclusive=False)
            try:
                yield aside
                os.rename(aside, cache)
            except BaseException as error:
                shutil.rmtree(aside, ignore_errors=True)
                if not (isinstance(error, OSError) and cache.is_dir()):  # another was faster
                    raise

    @contextlib.contextmanager
    def draft(self, final: Path, size: int) -> Iterator[Path | None]:
        """Give the name of a file of `size` bytes to fill, which becomes `final` after the block.

        None: the copy is there already, another process is making it, or it does not `fit`.
        """
        with contextlib.ExitStack() as held:
            stream = self._claim(final, size, held)
            if stream is None:
                yield None
                return
            aside = Path(stream.name)
            try:
                yield aside
                if os.path.getsize(aside) != size:
                    raise OSError(f"{aside} has {os.path.getsize(aside)} bytes instead of {size}")
                os.fsync(stream.fileno())
                move(aside, final)
            except BaseException:
                with contextlib.suppress(OSError):
                    aside.unlink()
                raise

    def fits(self, size: int) -> bool:
        """Whether there is, or can be made, room for a copy of `size` bytes."""
        with locked(self.folder / "lock"):
            return self._make_room(size)

    def _claim(self, final: Path, size: int, held: contextlib.ExitStack) -> io.FileIO | None:
        with locked(self.folder / "lock"):
            if final.exists() or not self._make_room(size):
                return None
            stream = held.enter_context(open(f"{final}{DRAFT}", "a+b", buffering=0))
            if not _try_lock(stream, exclusive=True) or final.exists():  # finished just now
                return None
            stream.truncate(size)
            return stream

    def _make_room(self, size: int) -> bool:
        """Whether a copy fits, after removing what may be removed. Under the folder's lock."""
        if not self._lacks(size):
            return True
        self._remove_abandoned()
        for cache in self._by_age():
            if self._lacks(size):
                self._remove(cache)
        return not self._lacks(size)

    def _lacks(self, size: int) -> bool:
        free = shutil.disk_usage(self.folder).free
        return self.used() + size > self.limit_bytes or size > free

    def _remove_abandoned(self) -> None:
        """Remove drafts, and folders that are not whole, that nobody is writing or removing."""
        if not HAS_LOCKS:
            return
        for folder in self.folder.glob(".*/"):
            self._remove(folder)
        for draft in self.folder.glob(f"*/*{DRAFT}"):
            with contextlib.suppress(FileNotFoundError), open(draft, "r+b") as stream:
                if _try_lock(stream, exclusive=True):
                    draft.unlink()

    def _by_age(self) -> list[Path]:
        """Folders of caches, that of the cache opened longest ago first."""
        marks = self.folder.glob(f"[!.]*/{IN_USE}")  # one with a point is being made
        return [folder for _, folder in sorted((m.stat().st_mtime_ns, m.parent) for m in marks)]

    def _remove(self, cache: Path) -> None:
        """Remove a folder if no process holds it. Under the folder's lock."""
        with contextlib.suppress(FileNotFoundError), open(cache / IN_USE, "r+b") as stream:
            if not _try_lock(stream, exclusive=True):
                return
        if not cache.name.startswith("."):
            cache = cache.rename(_aside(cache))
        shutil.rmtree(cache)


def _aside(cache: Path) -> Path:
    """A name that no folder has, for one that is not whole."""
    return cache.with_name(f".{cache.name}.{uuid.uuid4().hex}")


def hold(cache: Path) -> io.FileIO | None:
    """Keep a cache's folder from being removed until the file that is returned is closed.

    None: it was removed already.
    """
    mark = cache / IN_USE
    try:
        stream = open(mark, "rb", buffering=0)
    except FileNotFoundError:
        return None
    if _try_lock(stream, exclusive=False) and _is_at(stream, mark):
        os.utime(mark)
        return stream
    stream.close()
    return None


def _is_at(stream: io.IOBase, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out of the block; waits for those that are in it."""
    with open(path, "ab") as stream:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _try_lock(stream: io.IOBase, *, exclusive: bool) -> bool:
    """Lock an open file; on NFS this takes one that may be written, or, if shared, read."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
