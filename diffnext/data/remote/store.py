# SPDX-License-Identifier: Apache-2.0
"""The files of a remote folder: listed and read through fsspec, again and again where that fails."""

from __future__ import annotations

import base64
import os
import posixpath
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from diffnext.data import urls
from diffnext.data.fetching import is_final
from diffnext.data.records.layout import METADATA

T = TypeVar("T")
Range = tuple[str, int, int]  # name, first byte, number of bytes

ATTEMPTS = 6  # with the pauses between them, about 15 s
PAUSE_S = 0.5  # before the second attempt; doubled before each further one
LONGEST_PAUSE_S = 30.0
REQUESTS = 16  # at a time, for what takes one request a file


class RemoteError(ConnectionError):
    """A remote file cannot be had; the message names its URL, the attempts and the reason."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as its server describes it."""

    size: int  # bytes
    version: str  # changes with the content; "" if the server does not say
    md5: str | None  # of the content, in hexadecimal digits, if the server says


class Store:
    """One remote folder.

    Args:
        url: s3://bucket/folder, gs://..., http(s)://..., or any other scheme of fsspec.
        options: of fsspec's file system, such as endpoint_url.
        attempts: how often a request is made before it is given up.
        pause_s: seconds before the second attempt.

    Raises:
        ValueError: fsspec lacks what the scheme needs.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        attempts: int = ATTEMPTS,
        pause_s: float | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.attempts = attempts
        self.pause_s = PAUSE_S if pause_s is None else pause_s
        self._system, self._root = _open(self.url, dict(options or {}))

    def list(self, wanted: Callable[[str], bool]) -> dict[str, RemoteFile]:
        """The files of the folder, by name, as far as they are wanted.

        Raises:
            RemoteError: the folder cannot be listed.
        """
        try:
            entries = self.retry("", lambda: self._system.ls(self._root, detail=True))
        except RemoteError:
            entries = []  # a web server may hide what is in a folder
        found = {posixpath.basename(entry["name"].rstrip("/")): entry for entry in entries}
        found = {name: entry for name, entry in found.items() if wanted(name)}
        if METADATA not in found:
            return {name: file for name, file in self._numbered().items() if wanted(name)}
        known = {name: _describe(entry) for name, entry in found.items()}
        unknown = [name for name, file in known.items() if file is None]
        with ThreadPoolExecutor(REQUESTS) as pool:
            return known | dict(zip(unknown, pool.map(self._info, unknown), strict=True))

    def find(self, name: str) -> RemoteFile | None:
        """A file of the folder; None if there is none of this name.

        Raises:
            RemoteError: the server does not say.
        """
        try:
            return self._info(name)
        except RemoteError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def read(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of a file.

        Raises:
            RemoteError: they cannot be had.
        """

        def once() -> bytes:
            data = self._system.cat_file(self._path(name), start=start, end=start + size)
            _check_size(len(data), size)
            return data

        return self.retry(name, once)

    def read_many(self, ranges: Sequence[Range]) -> list[bytes]:
        """The same for several ranges, asked for at the same time."""
        if not ranges:
            return []
        names, starts, sizes = zip(*ranges, strict=True)
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        paths = [self._path(name) for name in names]
        try:
            parts = self._system.cat_ranges(paths, list(starts), ends, on_error="return")
        except Exception:  # one by one it will turn out what is wrong
            parts = [b""] * len(ranges)
        return [
            part if isinstance(part, bytes) and len(part) == piece[2] else self.read(*piece)
            for part, piece in zip(parts, ranges, strict=True)
        ]

    def copy(self, name: str, path: str, size: int) -> None:
        """Copy a whole file, of `size` bytes, in one request.

        Raises:
            RemoteError: it cannot be had.
        """

        def once() -> None:
            self._system.get_file(self._path(name), path)
            _check_size(os.path.getsize(path), size)

        self.retry(name, once)

    def find_ranges(self, size: int) -> bool:
        """Whether the server hands out parts of a file; some web servers send the whole, always.

        Args:
            size: of METADATA, which is asked for.
        """

        def once() -> bool:
            part = self._system.cat_file(self._path(METADATA), start=1, end=2)
            if len(part) != size:
                _check_size(len(part), 1)
            return len(part) == 1

        return self.retry(METADATA, once)

    def retry(self, name: str, call: Callable[[], T]) -> T:
        """Call until it works.

        Raises:
            RemoteError: it failed `attempts` times, or in a way that will not change.
        """
        url = f"{self.url}/{name}" if name else self.url
        for attempt in range(1, self.attempts + 1):
            try:
                return call()
            except RemoteError:
                raise  # of a call in this one
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                if is_final(error):
                    raise RemoteError(f"{url} cannot be read: {reason}") from error
                if attempt == self.attempts:
                    raise RemoteError(
                        f"{url} cannot be read: {attempt} attempts failed, the last with {reason}"
                    ) from error
            pause = min(LONGEST_PAUSE_S, self.pause_s * 2 ** (attempt - 1))
            time.sleep(pause * random.uniform(0.5, 1.0))  # processes shall not come all at once
        raise AssertionError("attempts is at least 1")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _info(self, name: str) -> RemoteFile:
        described = _describe(self.retry(name, lambda: self._system.info(self._path(name))))
        if described is None:
            raise RemoteError(f"{self.url}/{name} cannot be read: its server does not say its size")
        return described

    def _numbered(self) -> dict[str, RemoteFile]:
        """The files of a folder that cannot be listed: shards are numbered."""
        found = {METADATA: self._info(METADATA)}
        for name in ("diffnext.json", "diffnext.index.bin"):
            found |= self._if_there(name)
        number = 0
        while shard := self._if_there(f"{number:05d}.index"):
            found |= shard | self._if_there(f"{number:05d}.check")
            found[f"{number:05d}.data"] = self._info(f"{number:05d}.data")
            number += 1
        return found

    def _if_there(self, name: str) -> dict[str, RemoteFile]:
        file = self.find(name)
        return {} if file is None else {name: file}


def _open(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    if urls.is_web(url):
        options = {"headers": {"Accept-Encoding": "identity"}} | options
    options = {"use_listings_cache": False, "skip_instance_cache": True} | options
    system, root = urls.file_system(url, **options)
    return system, root.rstrip("/")


def _describe(entry: Mapping[str, Any]) -> RemoteFile | None:
    """What a server says of a file; None if it does not say the size."""
    if entry.get("size") is None:
        return None
    return RemoteFile(int(entry["size"]), urls.version_of(entry), _md5(entry))


def _md5(entry: Mapping[str, Any]) -> str | None:
    """The md5 of the content, where the mark that a server gives is one."""
    for key in ("md5Hash", "Content-MD5"):
        if entry.get(key):
            return base64.b64decode(entry[key]).hex()
    mark = str(entry.get("ETag", "")).strip('"')
    return mark if re.fullmatch("[0-9a-f]{32}", mark) else None


def _check_size(found: int, wanted: int) -> None:
    if found != wanted:
        raise OSError(f"{found} bytes came instead of {wanted}")
