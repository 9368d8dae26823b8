# SPDX-License-Identifier: Apache-2.0
"""Files by path or URL: URLs go through fsspec, which is imported for them alone."""

from __future__ import annotations

import hashlib
import os
import posixpath
from typing import Any, BinaryIO

# What file systems call the mark of a version, the best first.
# fmt: off
VERSION_KEYS = (
    "ETag", "etag", "md5Hash", "md5", "Content-MD5", "mtime", "LastModified", "Last-Modified",
    "last_modified", "updated", "created",
)
# fmt: on


def is_url(path: str) -> bool:
    """Whether a path has a scheme, as in s3://bucket/a.jpg; a drive letter is none."""
    scheme, mark, _ = path.partition("://")
    return bool(mark) and scheme.replace("+", "").isalnum()


def join(base: str, name: str) -> str:
    """`name` as seen from a folder or URL; absolute paths and URLs stay as they are."""
    if is_url(name):
        return name
    return posixpath.join(base, name) if is_url(base) else os.path.join(base, name)


def open_file(path: str) -> BinaryIO:
    """Open a local file or a URL for reading; of a URL only what is read is fetched."""
    if not is_url(path):
        return open(path, "rb")
    system, inner = _file_system(path)
    return system.open(inner, "rb")


def read(path: str) -> bytes:
    """All bytes of a file or URL."""
    if is_url(path):
        system, inner = _file_system(path)
        return system.cat_file(inner)
    with open(path, "rb") as stream:
        return stream.read()


def read_range(path: str, offset: int, size: int) -> bytes:
    """Some bytes of a file or URL in one positioned read; fewer where the file ends."""
    if is_url(path):
        system, inner = _file_system(path)
        data = system.cat_file(inner, start=offset, end=offset + size)
        return (
            data if len(data) <= size else data[offset : offset + size]
        )  # a server without ranges
    with open(path, "rb", buffering=0) as stream:
        stream.seek(offset)
        return stream.read(size)


def stamp(path: str) -> tuple[int, int]:
    """Size in bytes and time of change (ns); of a URL, a number for the version, 0 if none is named."""
    if not is_url(path):
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns
    system, inner = _file_system(path)
    info = system.info(inner)
    version = next((info[key] for key in VERSION_KEYS if info.get(key)), None)
    if version is None:
        return int(info["size"] or 0), 0
    digest = hashlib.blake2b(str(version).encode(), digest_size=8).digest()
    return int(info["size"] or 0), int.from_bytes(digest, "little") >> 1


def find(url: str) -> list[str]:
    """The URLs of all files below a URL."""
    system, inner = _file_system(url)
    start, base = len(inner.rstrip("/")), url.rstrip("/")
    return [base + path[start:] for path in system.find(inner)]


def is_folder(url: str) -> bool:
    """Whether there is something below a URL."""
    system, inner = _file_system(url)
    return system.isdir(inner)


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
        ValueError: fsspec or what it needs for this scheme is not installed.
    """
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url}: {error}; pip install fsspec and what it names") from error
