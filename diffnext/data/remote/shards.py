# SPDX-License-Identifier: Apache-2.0
"""The shards of a remote cache: copied in the background, and read by ranges until they are."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from diffnext.data.records.files import Files, Job, scatter
from diffnext.data.remote.room import Room
from diffnext.data.remote.store import Range, RemoteError, RemoteFile, Store
from diffnext.utils.logging import logger

CHUNK = 8 << 20  # bytes of one request of a copy
CHUNKS = 4  # requests of a copy at a time
COPIES = 2  # shards that a process copies at a time
AGAIN_S = 60  # after which a shard is asked for again: there may be room, or its copier was killed
POLL_S = 0.1  # between two looks at a copy that another process makes


class RemoteFiles(Files):
    """Reads shards from their local copies, or by ranges from the server where there is none.

    The first read of a shard asks for its copy, so that copies are made in the order in which a loader
    that reads ahead needs them. A server that hands out whole files alone makes the read wait for
    the copy. For threads.

    Args:
        folder: where the copies go.
        names: of the shards.
        store: the remote folder.
        files: what the server says of its files.
        room: decides about copies; None to keep none.
        has_ranges: whether the server hands out parts of files.
        flaw_of: what is wrong with the copy of a shard, given its number and its path; "": nothing.
    """

    def __init__(
        self,
        folder: str,
        names: Sequence[str],
        *,
        store: Store,
        files: Mapping[str, RemoteFile],
        room: Room | None,
        has_ranges: bool,
        flaw_of: Callable[[int, Path], str],
    ) -> None:
        super().__init__(folder, names)
        self.names = list(names)
        self._store = store
        self._files = [files.get(name) for name in names]
        self._room = room
        self._has_ranges = has_ranges
        self._flaw_of = flaw_of
        self._copied: set[int] = set()
        self._copier = Copier(self._copy)
        self._digests: dict[int, str] = {}
        self._trust_md5 = True

    def sizes(self) -> list[int]:
        """Bytes of each shard, as the server says.

        Raises:
            RemoteError: one is missing.
        """
        for name, file in zip(self.names, self._files, strict=True):
            if file is None:
                raise RemoteError(f"{self._store.url}/{name} is missing, its index is there")
        return [file.size for file in self._files]

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on."""
        if self._is_here(number):
            return super().read(number, offset, size)
        size = min(size, self._files[number].size - offset)  # as at the end of a local file
        data = self._store.read(self.names[number], offset, size)
        self._copier.ask(number)
        return data

    def read_into(self, jobs: Sequence[Job]) -> list[int]:
        """Fill the buffers of each job; return how many bytes there were for each.

        What has no local copy is asked for at the same time.
        """
        here = [self._is_here(number) for number, _, _ in jobs]
        away = [job for job, is_here in zip(jobs, here, strict=True) if not is_here]
        parts = iter(self._store.read_many([self._range(*job) for job in away]))
        for number, _, _ in away:
            self._copier.ask(number)
        local = iter(
            super().read_into([j for j, is_here in zip(jobs, here, strict=True) if is_here])
        )
        return [
            next(local) if is_here else scatter(next(parts), buffers)
            for (_, _, buffers), is_here in zip(jobs, here, strict=True)
        ]

    def _range(self, number: int, offset: int, buffers: Sequence[bytearray | memoryview]) -> Range:
        size = min(sum(map(len, buffers)), self._files[number].size - offset)
        return self.names[number], offset, size

    def _is_here(self, number: int) -> bool:
        """Whether a shard has a local copy, which is waited for where there are no ranges."""
        if not self._has_ranges:
            self.wait_for(number)
        return self._is_copied(number)

    def wait_for(self, number: int) -> None:
        """Return when there is a local copy of a shard.

        Raises:
            RemoteError: it cannot be had, or there is no room for it.
        """
        file = self._files[number]
        while not self._is_copied(number):
            if self._copy(number) or self._is_copied(number):
                continue
            if self._room is None or not self._room.fits(file.size):
                raise RemoteError(
                    f"{self._store.url}/{self.names[number]} needs {file.size} bytes of local space "
                    f"that {'may not be used' if self._room is None else 'there is not'}"
                )
            time.sleep(POLL_S)  # another process is at it

    def close(self) -> None:
        self._copier.stop()
        super().close()

    # ------------------------------------------------------------------------------- copies

    def _is_copied(self, number: int) -> bool:
        self._copier.raise_error()
        if number not in self._copied and Path(self.paths[number]).exists():
            self._copied.add(number)
        return number in self._copied

    def _copy(self, number: int) -> bool:
        """Copy a shard if nobody does and there is room; whether it was done."""
        if self._room is None:
            return False
        file = self._files[number]
        with self._room.draft(Path(self.paths[number]), file.size) as draft:
            if draft is not None:
                name = self.names[number]
                self._store.retry(name, lambda: self._fill(number, draft))
        return draft is not None

    def _fill(self, number: int, draft: Path) -> None:
        name, size = self.names[number], self._files[number].size
        if self._has_ranges:
            with open(draft, "r+b") as stream:
                for part in self._parts(name, size):
                    stream.write(part)
        else:
            self._store.copy(name, str(draft), size)
        self._check(number, draft)

    def _parts(self, name: str, size: int) -> Iterator[bytes]:
        for start in range(0, size, CHUNK * CHUNKS):
            if self._copier.stopped:
                raise RemoteError(f"{name} is not needed any more")
            starts = range(start, min(start + CHUNK * CHUNKS, size), CHUNK)
            yield from self._store.read_many([(name, s, min(CHUNK, size - s)) for s in starts])

    def _check(self, number: int, draft: Path) -> None:
        """Refuse a copy with a flaw, unless it came out the same before: then the original has it.

        What looks like an md5 need not be one: the ETag of an S3 object is, unless it is encrypted
        with a key of the customer's. When one has turned out not to be, none is believed.
        """
        digest = hashlib.md5(usedforsecurity=False)
        with open(draft, "rb") as stream:
            while part := stream.read(CHUNK):
                digest.update(part)
        found, wanted = digest.hexdigest(), self._files[number].md5
        flaw = self._flaw_of(number, draft)
        if self._trust_md5 and wanted not in (None, found):
            flaw = flaw or f"its bytes have the md5 {found}, the server says {wanted}"
        if flaw and self._digests.get(number) != found:
            self._digests[number] = found
            raise OSError(flaw)
        self._trust_md5 = self._trust_md5 and wanted in (None, found)


class Copier:
    """Threads that copy shards one after another, in the order in which they were asked for.

    Args:
        copy: copies a shard; whether it did.
    """

    def __init__(self, copy: Callable[[int], bool]) -> None:
        self.stopped = False
        self._copy = copy
        self._asked: dict[int, float] = {}  # shard -> when it may be asked for again
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._error: RemoteError | None = None
        self._lock = threading.Lock()

    def ask(self, number: int) -> None:
        """Have a shard copied, if nobody has asked for it of late."""
        with self._lock:
            now = time.monotonic()
            if now < self._asked.get(number, now):
                return
            self._asked[number] = now + AGAIN_S
            self.stopped = False
            self._queue.put(number)
            if len(self._threads) < COPIES:  # that end with the process, whatever they are at
                thread = threading.Thread(target=self._work, name="diffnext-copy", daemon=True)
                self._threads.append(thread)
                thread.start()

    def raise_error(self) -> None:
        """Raise what ended a copy."""
        if self._error is not None:
            error, self._error = self._error, None
            raise RemoteError(str(error)) from error

    def stop(self) -> None:
        """End the threads after what they are at; a later `ask` begins anew."""
        with self._lock:
            self.stopped = True
            for _ in self._threads:
                self._queue.put(None)
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join(timeout=5)  # one that waits for a whole file ends with the process
        with self._lock:
            self._queue = queue.SimpleQueue()
            self._asked = {}

    def _work(self) -> None:
        while (number := self._queue.get()) is not None:
            if self.stopped:
                continue
            try:
                self._copy(number)
            except RemoteError as error:
                if not self.stopped:
                    self._error = error
            except OSError as error:  # the disk is full, or fails
                logger.warning(f"no further shard is copied, all others are read remotely: {error}")
                return
