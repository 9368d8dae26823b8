# SPDX-License-Identifier: Apache-2.0
"""Reads a record folder behind a URL as if it were local.

What describes the folder (METADATA, indexes, checksums, identity) is copied when it is opened; its
shards are copied while their records are already read by ranges. The folder of the copies is named
by what the server says of all its files, so another version of a cache is another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffnext.data.records.base import DamagedRecord, Record, Times
from diffnext.data.records.checks import checksum
from diffnext.data.records.folder_reader import FolderReader
from diffnext.data.records.identity import IDENTITY
from diffnext.data.records.index import SIDECAR, adopt_copy
from diffnext.data.records.layout import METADATA
from diffnext.data.remote.room import HAS_LOCKS, Room, hold
from diffnext.data.remote.shards import RemoteFiles
from diffnext.data.remote.store import ATTEMPTS, REQUESTS, RemoteError, RemoteFile, Store
from diffnext.utils.hashes import user_cache
from diffnext.utils.logging import logger

GIB = 1 << 30


class RemoteReader:
    """Random access to a record folder behind a URL; a RecordReader.

    Args:
        url: of the folder.
        folder: where copies are kept; "" for `remote` in the user's cache folder.
        gib: how many GiB of copies may lie there, those of other caches included; 0 for half of what
            the disk has for them. A cache that is larger is kept in part.
        options: of fsspec's file system, such as {endpoint_url: ...}.
        attempts: how often a request is made before it is an error.

    Raises:
        RemoteError: the folder cannot be read, or its server hands out whole files alone and they
            do not fit.
        RecordError: the folder is damaged.
        ValueError: there are no records, or packages are missing.
    """

    def __init__(
        self,
        url: str,
        *,
        folder: str = "",
        gib: float = 0.0,
        options: Mapping[str, Any] | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.path = url.rstrip("/")
        self._arguments = {
            "folder": folder,
            "gib": gib,
            "options": dict(options or {}),
            "attempts": attempts,
        }
        store = Store(url, options=options, attempts=attempts)
        files = store.list(_is_needed)
        if METADATA not in files:
            raise ValueError(f"{self.path} has no {METADATA}: no records, or a build that goes on")
        self._room = Room(
            os.path.expanduser(folder) or user_cache() / "remote", int(gib * GIB) or None
        )
        self._has_ranges = store.find_ranges(files[METADATA].size)
        self.home, self._held = _open_copy(store, files, self._room)
        self.num_bytes = sum(f.size for name, f in files.items() if name.endswith(".data"))
        self._check_room()
        self._files: RemoteFiles
        self._folder = FolderReader(self.home, files=partial(self._make_files, store, files))
        self.fields = self._folder.fields

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: int) -> Record:
        with self._naming_url():
            return self._folder[index]

    def read(
        self, indices: Sequence[int], *, verify: bool = True, times: Times | None = None
    ) -> list[Record]:
        """Decode several records, which are asked for at the same time."""
        with self._naming_url():
            return self._folder.read(indices, verify=verify, times=times)

    def read_into(
        self,
        indices: Sequence[int],
        field: str,
        outs: Sequence[memoryview],
        *,
        verify: bool = True,
        times: Times | None = None,
    ) -> list[Record]:
        """Read one BYTES field of several records straight into `outs`; return the other fields."""
        with self._naming_url():
            return self._folder.read_into(indices, field, outs, verify=verify, times=times)

    def shapes(self) -> tuple[list[tuple[int, ...]], np.ndarray | None]:
        self._read_shapes()
        return self._folder.shapes()

    def groups(self) -> list[tuple[tuple[int, ...], np.ndarray | None]]:
        self._read_shapes()
        return self._folder.groups()

    def describe(self, index: int) -> str:
        """URL and number of a record, for messages."""
        return self._folder.describe(index).replace(self.home, self.path)

    def about(self) -> str:
        """What is read from where, for the plan of a run."""
        total, limit = self.num_bytes / GIB, self._room.limit_bytes / GIB
        kept = f"{self._room.folder}, which may hold {limit:.2f} GiB"
        if not HAS_LOCKS:
            return f"remote     {self.path}: {total:.2f} GiB, read over the network in each epoch"
        if self.num_bytes <= self._room.limit_bytes:
            return f"remote     {self.path}: {total:.2f} GiB, copied once to {kept}"
        return (
            f"WARNING    {self.path} has {total:.2f} GiB, of which a part is copied to {kept}; the "
            "others are read over the network in each epoch; TRAIN.REMOTE_CONFIG.gib allows more"
        )

    def close(self) -> None:
        """Stop copying and close the files; a later read opens them again."""
        self._folder.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(RemoteReader, **self._arguments), (self.path,)

    def _make_files(
        self, store: Store, files: Mapping[str, RemoteFile], folder: str, names: list[str]
    ) -> RemoteFiles:
        room = self._room if HAS_LOCKS else None
        self._files = RemoteFiles(
            folder,
            names,
            store=store,
            files=files,
            room=room,
            has_ranges=self._has_ranges,
            flaw_of=self._flaw_of,
        )
        return self._files

    def _flaw_of(self, shard: int, path: Path) -> str:
        """The first record of a shard's copy whose checksum is not that of its bytes."""
        index = self._folder.index
        if index.sums is None:
            return ""
        with open(path, "rb") as stream:
            for record in range(int(index.first[shard]), int(index.first[shard + 1])):
                _, offset, size, wanted = index.locate(record)
                stream.seek(offset)
                if wanted and checksum([stream.read(size)]) != wanted:
                    return f"record {record} of the folder was damaged on the way, or is there"
        return ""

    @contextmanager
    def _naming_url(self) -> Iterator[None]:
        """Say of damage where the folder comes from."""
        try:
            yield
        except DamagedRecord as error:
            raise DamagedRecord(f"{error}; the folder is a copy of {self.path}") from error

    def _check_room(self) -> None:
        """Whole files have to fit, all of them: records are read in random order."""
        if self._has_ranges:
            return
        limit = self._room.limit_bytes if HAS_LOCKS else 0
        if self.num_bytes > limit:
            raise RemoteError(
                f"the server of {self.path} hands out whole files alone, {self.num_bytes} bytes in "
                f"all, and {self._room.folder} may hold {limit}; raise TRAIN.REMOTE_CONFIG.gib, or "
                "use a server that answers Range requests"
            )

    def _read_shapes(self) -> None:
        """Copy the shards of a folder whose index does not know the shapes, which are in them."""
        if self._folder.index.shapes is not None:
            return
        if self.num_bytes > self._room.limit_bytes:
            raise ValueError(
                f"{self.path} has no {SIDECAR} that knows the shapes of its records; make one where "
                'the folder is local: python -c "from diffnext.data.records import open_reader; '
                "open_reader('FOLDER').save_index()\", and copy it to the URL as well"
            )
        logger.info(f"{self.path} has no {SIDECAR}: its shards are copied to find the shapes")
        for number in range(len(self._files.names)):
            self._files.wait_for(number)


def _is_needed(name: str) -> bool:
    """Whether a file of the folder is needed to read it."""
    return name in (METADATA, IDENTITY, SIDECAR) or name.endswith((".data", ".index", ".check"))


def _open_copy(store: Store, files: Mapping[str, RemoteFile], room: Room) -> tuple[str, Any]:
    """The local folder of this version of a cache, and what keeps it there."""
    versions = [[name, file.size, file.version] for name, file in sorted(files.items())]
    mark = hashlib.sha256(json.dumps([store.url, versions]).encode()).hexdigest()[:16]
    home = room.folder / f"{posixpath.basename(store.url)}-{mark}"
    while (held := hold(home)) is None:  # not there, or removed at this moment
        with room.new(home) as draft:
            _copy_description(store, files, draft)
    return str(home), held


def _copy_description(store: Store, files: Mapping[str, RemoteFile], folder: Path) -> None:
    """Copy all but the shards."""
    small = [name for name in files if not name.endswith(".data")]
    with ThreadPoolExecutor(REQUESTS) as pool:
        copied = [
            pool.submit(store.copy, name, str(folder / name), files[name].size) for name in small
        ]
    for copy in copied:
        copy.result()
    adopt_copy(str(folder))
