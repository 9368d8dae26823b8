# SPDX-License-Identifier: Apache-2.0
"""Files by path or URL: URLs go through fsspec, which is imported for them alone.

Each request for what is behind a URL is tried several times; where that was in vain, it is a `FetchError`.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import posixpath
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, TypeVar, cast

from diffnext.data.fetching import PatientStream, patiently

C = TypeVar("C", bound=Callable[..., Any])

# What file systems call the mark of a version, the best first.
# fmt: off
VERSION_KEYS = (
    "ETag", "etag", "md5Hash", "md5", "Content-MD5", "mtime", "LastModified", "Last-Modified",
    "last_modified", "updated", "created",
)
# fmt: on
LATEST_NS = 2**63 - 1  # time of change that is told from earlier ones; in the year 2262
SILENCE_S = 60  # of an HTTP server, after which a request has failed


def is_url(path: str) -> bool:
    """Whether a path has a scheme, as in s3://bucket/a.jpg; a drive letter is none."""
    scheme, mark, _ = path.partition("://")
    return bool(mark) and scheme.replace("+", "").isalnum()


def is_web(url: str) -> bool:
    """Whether a URL leads to a web server."""
    return url.startswith(("http://", "https://"))


def is_remote(path: str) -> bool:
    """Whether a network lies between here and there; some URLs are of this machine."""
    return is_url(path) and not path.startswith(("file://", "local://"))


def _patient(function: C) -> C:
    """Have a function of a path call again, if that is a URL and it may help."""

    @functools.wraps(function)
    def call(path: str, *args: Any) -> Any:
        if is_url(path):
            return patiently(path, lambda: function(path, *args))
        return function(path, *args)

    return cast(C, call)


def join(base: str, name: str) -> str:
    """`name` as seen from a folder or URL; absolute paths and URLs stay as they are."""
    if is_url(name):
        return name
    return posixpath.join(base, name) if is_url(base) else os.path.join(base, name)


def open_file(path: str, block_bytes: int | None = None) -> BinaryIO:
    """Open a local file or a URL for reading; of a URL only what is read is fetched.

    Where the server hands out whole files alone, the whole is fetched at once.

    Args:
        block_bytes: what is fetched at a time; None: as the file system does, mostly 5 MiB.
    """
    if not is_url(path):
        return open(path, "rb")
    return io.BufferedReader(PatientStream(path, _open(path, block_bytes)))


@_patient
def _open(url: str, block_bytes: int | None) -> Any:
    system, inner = file_system(url)
    stream = system.open(inner, "rb", block_size=block_bytes)
    try:
        stream.seek(0, os.SEEK_END)
    except ValueError:  # a stream that goes one way
        stream.close()
        return io.BytesIO(read(url))
    stream.seek(0)
    return stream


@_patient
def copy(url: str, path: str) -> None:
    """Write all bytes of a URL to a local file."""
    system, inner = file_system(url)
    system.get_file(inner, path)


@_patient
def read(path: str) -> bytes:
    """All bytes of a file or URL."""
    if is_url(path):
        system, inner = file_system(path)
        return system.cat_file(inner)
    with open(path, "rb") as stream:
        return stream.read()


@_patient
def read_range(path: str, offset: int, size: int) -> bytes:
    """Some bytes of a file or URL in one positioned read; fewer where the file ends.

    Raises:
        OSError: it is longer, and fewer came.
    """
    if is_url(path):
        system, inner = file_system(path)
        data = system.cat_file(inner, start=offset, end=offset + size)
        if len(data) > size:  # from a server without ranges
            data = data[offset : offset + size]
        if len(data) < size <= (system.info(inner).get("size") or 0) - offset:
            raise OSError(f"{len(data)} bytes came instead of {size}")
        return data
    with open(path, "rb", buffering=0) as stream:
        stream.seek(offset)
        return stream.read(size)


@_patient
def stamp(path: str) -> tuple[int, int]:
    """Size in bytes and time of change (ns); of a URL, a number for the version, 0 if none is named."""
    if not is_url(path):
        stat = os.stat(path)
        return stat.st_size, min(stat.st_mtime_ns, LATEST_NS)
    system, inner = file_system(path)
    info = system.info(inner)
    size, version = int(info.get("size") or 0), version_of(info)
    if not version:
        return size, 0
    digest = hashlib.blake2b(version.encode(), digest_size=8).digest()
    return size, int.from_bytes(digest, "little") >> 1


def version_of(info: Mapping[str, Any]) -> str:
    """What changes with the content of a file, as its server describes it; "" if it does not say."""
    return next((str(info[key]) for key in VERSION_KEYS if info.get(key)), "")


@_patient
def find(url: str) -> list[str]:
    """The URLs of all files below a URL."""
    system, inner = file_system(url)
    start, base = len(inner.rstrip("/")), url.rstrip("/")
    return [base + path[start:] for path in system.find(inner)]


@_patient
def is_folder(url: str) -> bool:
    """Whether there is something below a URL."""
    system, inner = file_system(url)
    if is_web(url) and not _is_page(system, inner):
        return False
    return system.isdir(inner)


def _is_page(system: Any, inner: str) -> bool:
    """Whether a web server has a page there; a file would be fetched whole to look for links in it."""
    try:
        return system.info(inner).get("mimetype") == "text/html"
    except FileNotFoundError:
        return False


def file_system(url: str, **options: Any) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Args:
        options: of fsspec's file system, such as endpoint_url.

    Raises:
        ValueError: fsspec or what it needs for this scheme is not installed.
    """
    if is_web(url):
        options = {"get_client": _client} | options
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url, **options)
    except ImportError as error:
        raise ValueError(
            f"{url} needs another package ({error}); pip install diffnext[remote]"
        ) from error


async def _client(**options: Any) -> Any:
    """A client that gives up on a silent server, and not on a large file, unless it is told when."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
    return aiohttp.ClientSession(**{"timeout": timeout, **options})
