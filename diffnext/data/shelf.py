# SPDX-License-Identifier: Apache-2.0
"""Copies of remote media, from the plan of a build to their decoding: what was fetched is not again.

The plan has to read a medium to know its size and frames, or its sha256, and the build decodes it later,
in another process as a rule. Between the two it lies in a folder of bounded size beside the records.
What finds no room there is read over the network each time. A copy goes when the plan gives it nothing
to do, or when the last of its views was decoded. Where several processes build, it goes when its unit of
work is done; one that is to be read in several, as a medium that is listed twice, at the end of all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from diffnext.data.location import File, Location
from diffnext.data.sources import Source
from diffnext.utils.files import FULL_DISK, replacing

SHELF = "diffnext.media"
MOST_BYTES = 32 << 30
SHARE = 4  # of the free disk that copies may take: a quarter


class Shelf:
    """The folder of the copies, for the time of a `with` block. For several threads.

    Args:
        output: the cache, whose lock the caller holds.
        most_bytes: of all copies together; None: a quarter of what is free, at most 32 GiB.
    """

    def __init__(self, output: str, most_bytes: int | None = None) -> None:
        self.folder = os.path.join(os.path.abspath(output), SHELF)
        self._left = most_bytes
        self._claims: dict[str, Future] = {}
        self._sizes: dict[str, int] = {}  # of the copies that are there, by path
        self._readers: Counter[str] = Counter()  # how often each is still to be read
        self._lock = threading.Lock()

    def __enter__(self) -> Shelf:
        self.clear()  # what a killed build left
        if self._left is None:
            output = os.path.dirname(self.folder)
            self._left = min(MOST_BYTES, shutil.disk_usage(output).free // SHARE)
        return self

    def __exit__(self, *_: Any) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove all copies; what they are of can still be read."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def serve(self, sources: Iterable[Source]) -> list[Source]:
        """The sources, those that are remote with a place for a copy."""
        return [
            replace(source, location=Kept(source.location, self.folder, self))
            if source.location.is_remote
            else source
            for source in sources
        ]

    def copy(self, medium: Kept, stamp: tuple[int, int]) -> None:
        """Copy a medium if there is room; one that is asked for again, as it is listed twice, once.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        if self._left <= 0:
            return
        with self._lock:
            claim = self._claims.get(medium.path)
            is_first = claim is None
            if is_first:
                claim = self._claims[medium.path] = Future()
        if is_first:
            try:
                claim.set_result(self._copy(medium, stamp))
            except Exception as error:
                claim.set_exception(error)
        claim.result()

    def expect(self, media: Iterable[Location]) -> None:
        """Say, after the plan, what will be read, as often as it will be; copies of all else go now."""
        self._claims.clear()  # a kilobyte each, and nothing more is copied
        paths = (medium.path for medium in media if isinstance(medium, Kept))
        self._readers.update(path for path in paths if path in self._sizes)
        for path in self._sizes.keys() - self._readers.keys():
            self._remove(path)

    def has_one_reader(self, medium: Kept) -> bool:
        """Whether a medium has a copy that is to be read once."""
        return self._readers[medium.path] == 1

    def release(self, medium: Kept) -> bool:
        """Say that a medium was read once; the last time its copy goes, and True is returned."""
        path = medium.path
        if path not in self._sizes:
            return False
        self._readers[path] -= 1
        is_last = self._readers[path] <= 0
        if is_last:
            self._remove(path)
        return is_last

    def _remove(self, path: str) -> None:
        with self._lock:
            self._left += self._sizes.pop(path)
        with contextlib.suppress(OSError):
            os.unlink(path)

    def _copy(self, medium: Kept, stamp: tuple[int, int]) -> None:
        size = medium.origin.num_bytes(stamp)
        with self._lock:
            if not 0 < size <= self._left:
                return
            self._left -= size
        try:
            os.makedirs(self.folder, exist_ok=True)
            with replacing(medium.path, durable=False) as aside:
                medium.origin.copy_to(str(aside))
                found = os.path.getsize(aside)
            with self._lock:
                self._left += size - found  # where the server did not say the truth
                self._sizes[medium.path] = found
        except Exception as error:  # libraries of servers raise what they like
            is_full = isinstance(error, OSError) and error.errno in FULL_DISK
            with self._lock:
                self._left = 0 if is_full else self._left + size
            if not is_full:
                raise


@dataclass(frozen=True, slots=True)
class Kept(Location):
    """A remote medium that has a place for a copy; where that is, no network is needed.

    Args:
        origin: where it is.
        folder: of the copies.
        shelf: makes the copy; None, as in another process: what is there is used, and nothing added.
        is_own: without a shelf, whether nobody but the reader of this object waits for the copy.
    """

    origin: Location
    folder: str
    shelf: Shelf | None = field(default=None, compare=False, repr=False)
    is_own: bool = field(default=False, compare=False, repr=False)

    def __str__(self) -> str:
        return str(self.origin)

    def __reduce__(self) -> tuple[Any, ...]:
        is_own = self.is_own if self.shelf is None else self.shelf.has_one_reader(self)
        return Kept, (self.origin, self.folder, None, is_own)

    @property
    def kind(self) -> str | None:
        return self.origin.kind

    @property
    def path(self) -> str:
        """Of the copy, which is there or not. FFmpeg goes by the suffix of some formats."""
        name = str(self.origin)
        suffix = os.path.splitext(name.partition("?")[0])[1]
        safe = suffix if suffix[1:].isalnum() else ""
        return os.path.join(self.folder, hashlib.sha256(name.encode()).hexdigest()[:32] + safe)

    @property
    def is_remote(self) -> bool:
        return self.local_path() is None

    @property
    def has_own_size(self) -> bool:
        return self.origin.has_own_size

    def stamp(self) -> tuple[int, int]:
        return self.origin.stamp()

    def fetch(self, stamp: tuple[int, int]) -> bool:
        if self.shelf is not None:
            self.shelf.copy(self, stamp)
        return self.local_path() is not None

    def release(self) -> bool:
        return self.shelf is not None and self.shelf.release(self)

    def discard(self) -> bool:
        with contextlib.suppress(OSError):
            if self.is_own:
                os.unlink(self.path)
                return True
        return False

    def local_path(self) -> str | None:
        path = self.path
        return path if os.path.exists(path) else None

    def read_bytes(self) -> bytes:
        return self._nearest().read_bytes()

    def handle(self) -> str | BinaryIO:
        return self._nearest().handle()

    def digest(self) -> str:
        return self._nearest().digest()

    def _nearest(self) -> Location:
        path = self.local_path()
        return self.origin if path is None else File(path)
