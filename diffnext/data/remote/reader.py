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
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from diffnext.data.records.checks import checksum
from diffnext.data.records.folder_reader import FolderReader
from diffnext.data.records.identity import IDENTITY
from diffnext.data.records.index import SIDECAR, Index, adopt_copy
from diffnext.data.records.layout import METADATA
from diffnext.data.remote.room import HAS_LOCKS, Room, hold
from diffnext.data.remote.shards import RemoteFiles
from diffnext.data.remote.store import ATTEMPTS, REQUESTS, RemoteError, RemoteFile, Store
from diffnext.utils.files import replacing
from diffnext.utils.hashes import user_cache
from diffnext.utils.logging import logger

GIB = 1 << 30


class RemoteReader(FolderReader):
    """Random access to a record folder behind a URL; its `folder` is that of the copies.

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
        url = url.rstrip("/")
        self._arguments = {
            "folder": folder,
            "gib": gib,
            "options": dict(options or {}),
            "attempts": attempts,
        }
        self._store = Store(url, options=options, attempts=attempts)
        self.remote_files = self._store.list(_is_needed)
        if METADATA not in self.remote_files:
            raise ValueError(f"{url} has no {METADATA}: no records, or a build that goes on")
        self._room = Room(
            os.path.expanduser(folder) or user_cache() / "remote", int(gib * GIB) or None
        )
        self._has_ranges = self._store.find_ranges(self.remote_files[METADATA].size)
        copies, held = _open_copy(self._store, self.remote_files, self._room)
        self.release = weakref.finalize(self, held.close)  # from then on others may remove them
        sizes = (file.size for name, file in self.remote_files.items() if name.endswith(".data"))
        self.num_bytes = sum(sizes)
        self._check_room(url)
        super().__init__(url, folder=copies, files=self._make_files)

    def fetch(self, name: str) -> bool:
        """Copy a further file, as it is now, beside those that describe the folder.

        Returns:
            Whether there is one.

        Raises:
            RemoteError: it cannot be had.
        """
        file, path = self._store.find(name), Path(self.folder, name)
        if file is None:
            path.unlink(missing_ok=True)  # as it was when it was fetched before
            return False
        with replacing(path, durable=False) as aside:
            self._store.copy(name, str(aside), file.size)
        return True

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

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(RemoteReader, **self._arguments), (self.path,)

    def _make_files(self, folder: str, names: list[str]) -> RemoteFiles:
        return RemoteFiles(
            folder,
            names,
            store=self._store,
            files=self.remote_files,
            room=self._room if HAS_LOCKS else None,
            has_ranges=self._has_ranges,
            flaw_of=self._flaw_of,
        )

    def _flaw_of(self, shard: int, path: Path) -> str:
        """The first record of a shard's copy whose checksum is not that of its bytes."""
        index = self.index
        if index.sums is None:
            return ""
        with open(path, "rb") as stream:
            for record in range(int(index.first[shard]), int(index.first[shard + 1])):
                _, offset, size, wanted = index.locate(record)
                stream.seek(offset)
                if wanted and checksum([stream.read(size)]) != wanted:
                    return f"record {record} of the folder was damaged on the way, or is there"
        return ""

    def _check_room(self, url: str) -> None:
        """Whole files have to fit, all of them: records are read in random order."""
        if self._has_ranges:
            return
        limit = self._room.limit_bytes if HAS_LOCKS else 0
        if self.num_bytes > limit:
            raise RemoteError(
                f"the server of {url} hands out whole files alone, {self.num_bytes} bytes in "
                f"all, and {self._room.folder} may hold {limit}; raise TRAIN.REMOTE_CONFIG.gib, or "
                "use a server that answers Range requests"
            )

    def _scan_shapes(self) -> Index:
        """Copy the shards of a folder whose index does not know the shapes, which are in them."""
        if self.num_bytes > self._room.limit_bytes:
            raise ValueError(
                f"{self.path} has no {SIDECAR} that knows the shapes of its records; make one where "
                'the folder is local: python -c "from diffnext.data.records import open_reader; '
                "open_reader('FOLDER').save_index()\", and copy it to the URL as well"
            )
        logger.info(f"{self.path} has no {SIDECAR}: its shards are copied to find the shapes")
        for number in range(len(self._files.names)):
            self._files.wait_for(number)
        return super()._scan_shapes()


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
