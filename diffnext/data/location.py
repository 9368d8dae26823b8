# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of a medium are: a file, a member of a tar, a cell of a table, or a URL.

A location is small, can be pickled, and reads nothing before it is asked. `str()` of it names file and
member for people, and is the same as long as the medium stays where it is. Where a network lies between,
each request is tried several times; all methods that read raise `FetchError` when that was in vain.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urlsplit

from diffnext.data import tables, urls

# fmt: off
IMAGE_SUFFIXES = (
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"
)
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpe",
    ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv", ".y4m"
)
# fmt: on
BLOCK = 1 << 20  # bytes that are hashed at a time
HEAD_BLOCK = 1 << 16  # bytes of a remote picture fetched at a time: its size is in the first


def kind_of(path: str) -> str | None:
    """Return "image", "video", or None for a file of another type; by the suffix of its name."""
    suffix = posixpath.splitext(path)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else None


class Location(ABC):
    """A place that a medium can be read from. Subclasses say how."""

    __slots__ = ()

    @abstractmethod
    def __str__(self) -> str:
        """File and member, for people."""

    @property
    def kind(self) -> str | None:
        """ "image", "video", or None for neither; by the name where nothing else is known."""
        return kind_of(str(self))

    @abstractmethod
    def stamp(self) -> tuple[int, int]:
        """Size in bytes and time of change (ns) of what must be read: while both stay, it stays.

        Raises:
            OSError, ValueError: nothing is there.
        """

    @abstractmethod
    def read_bytes(self) -> bytes:
        """The whole medium.

        Raises:
            OSError, ValueError: it cannot be read.
        """

    @property
    def is_remote(self) -> bool:
        """Whether each read of it goes over a network, by its path."""
        return False

    @property
    def has_own_size(self) -> bool:
        """Whether the size in its stamp is that of the medium alone."""
        return True

    def num_bytes(self, stamp: tuple[int, int]) -> int:
        """Bytes of the medium, given its stamp; 0 if that is not known."""
        return stamp[0]

    def fetch(self, stamp: tuple[int, int]) -> bool:
        """Bring it near, if there is a place for that (see `shelf`): it will be read more than once.

        Returns:
            Whether it can be read without a network.
        """
        return not self.is_remote

    def release(self) -> bool:
        """Say that it was read once, after `fetch`: a copy that nobody waits for any more goes.

        Returns:
            Whether one went.
        """
        return False

    def discard(self) -> bool:
        """Say, where several processes build, that what this one was to make of it is made.

        Returns:
            Whether there was a copy that went.
        """
        return False

    def copy_to(self, path: str) -> None:
        """Write the whole medium to a new local file.

        Raises:
            OSError, ValueError: it cannot be read, or not be written.
        """
        with open(path, "wb") as stream:
            stream.write(self.read_bytes())

    def local_path(self) -> str | None:
        """The path of a plain local file that holds the medium and nothing else; None if it is none."""
        return None

    def handle(self) -> str | BinaryIO:
        """What Pillow and FFmpeg open: the path of a local file, else a file object."""
        return io.BytesIO(self.read_bytes())

    def digest(self) -> str:
        """The sha256 of the bytes, in hexadecimal digits."""
        return hashlib.sha256(self.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class File(Location):
    """A local file."""

    path: str

    def __str__(self) -> str:
        return self.path

    def stamp(self) -> tuple[int, int]:
        return urls.stamp(self.path)

    def read_bytes(self) -> bytes:
        return urls.read(self.path)

    def local_path(self) -> str:
        return self.path

    def handle(self) -> str:
        # to FFmpeg, what stands before a colon would be a protocol
        return os.path.abspath(self.path) if ":" in self.path else self.path

    def copy_to(self, path: str) -> None:
        shutil.copyfile(self.path, path)

    def digest(self) -> str:
        digest = hashlib.sha256()
        with open(self.path, "rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Url(Location):
    """A file that fsspec reaches: s3://, gs://, http(s)://, memory://, ..."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def kind(self) -> str | None:
        return kind_of(urlsplit(self.url).path)  # what follows a question mark is no name

    @property
    def is_remote(self) -> bool:
        return urls.is_remote(self.url)

    def stamp(self) -> tuple[int, int]:
        return urls.stamp(self.url)

    def read_bytes(self) -> bytes:
        return urls.read(self.url)

    def copy_to(self, path: str) -> None:
        urls.copy(self.url, path)

    def handle(self) -> BinaryIO:
        return urls.open_file(self.url, HEAD_BLOCK if self.kind == "image" else None)


@dataclass(frozen=True, slots=True)
class TarMember(Location):
    """A member of a tar, local or remote, that is not compressed.

    Args:
        path: the tar.
        name: of the member.
        offset: of the member's bytes in the tar.
        size: number of these bytes.
    """

    path: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.path}/{self.name}"

    @property
    def is_remote(self) -> bool:
        return urls.is_remote(self.path)

    def stamp(self) -> tuple[int, int]:
        """The member's size, and the time of change of the tar: that of the member may be anything."""
        return self.size, urls.stamp(self.path)[1]

    def read_bytes(self) -> bytes:
        data = urls.read_range(self.path, self.offset, self.size)
        if len(data) < self.size:
            raise ValueError(f"{self}: {len(data)} bytes in the tar, {self.size} are declared")
        return data


@dataclass(frozen=True, slots=True)
class Cell(Location):
    """A value of a column of bytes in a parquet or Arrow file, or of the field `bytes` in it.

    Args:
        path: the file.
        column: its name; the bytes of a struct lie in `column.bytes`.
        row: number in the file.
        medium: "image" or "video", as the column or its schema says.
    """

    path: str
    column: str
    row: int
    medium: str

    def __str__(self) -> str:
        return f"{self.path}/{self.column}[{self.row}]"

    @property
    def is_remote(self) -> bool:
        return urls.is_remote(self.path)

    @property
    def kind(self) -> str:
        return self.medium

    def stamp(self) -> tuple[int, int]:
        """Of the whole file: the size of one cell is not known before it is read."""
        return urls.stamp(self.path)

    @property
    def has_own_size(self) -> bool:
        return False

    def num_bytes(self, stamp: tuple[int, int]) -> int:
        return len(self.read_bytes())  # whose row group stays in memory for a while

    def read_bytes(self) -> bytes:
        data = tables.read_cell(self.path, self.column, self.row)
        if data is None:
            raise ValueError(f"{self}: there are no bytes in this row")
        return data


@dataclass(frozen=True)
class Fetched(Location):
    """A medium whose bytes are here, and the place that they come from."""

    origin: Location
    data: bytes

    def __str__(self) -> str:
        return str(self.origin)

    @property
    def kind(self) -> str | None:
        return self.origin.kind

    def stamp(self) -> tuple[int, int]:
        return self.origin.stamp()

    def read_bytes(self) -> bytes:
        return self.data


def of_path(path: str) -> File | Url:
    """The location of a local path or a URL."""
    return Url(path) if urls.is_url(path) else File(path)
