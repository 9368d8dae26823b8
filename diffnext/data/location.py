# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of a medium are: a file, a member of a tar, a cell of a table, or a URL.

A location is small, can be pickled, and reads nothing before it is asked. `str()` of it names file and
member for people, and is the same as long as the medium stays where it is.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urlsplit

from diffnext.data import tables, urls

# fmt: off
IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"
)
VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"
)
# fmt: on
BLOCK = 1 << 20  # bytes that are hashed at a time


def kind_of(path: str) -> str | None:
    """Return "image", "video", or None for a file of another type; by the suffix of its name."""
    suffix = posixpath.splitext(path)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else None


class Location:
    """A place that a medium can be read from. Subclasses say how."""

    __slots__ = ()

    @property
    def kind(self) -> str | None:
        """ "image", "video", or None for neither; by the name where nothing else is known."""
        return kind_of(str(self))

    def stamp(self) -> tuple[int, int]:
        """Size in bytes and time of change (ns) of what must be read: while both stay, it stays.

        Raises:
            OSError, ValueError: nothing is there.
        """
        raise NotImplementedError

    def read_bytes(self) -> bytes:
        """The whole medium.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        raise NotImplementedError

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
        return self.path

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

    def stamp(self) -> tuple[int, int]:
        return urls.stamp(self.url)

    def read_bytes(self) -> bytes:
        return urls.read(self.url)

    def handle(self) -> BinaryIO:
        return urls.open_file(self.url)  # reads what is asked for: of a picture's size, its head


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
    def kind(self) -> str:
        return self.medium

    def stamp(self) -> tuple[int, int]:
        """Of the whole file: the size of one cell is not known before it is read."""
        return urls.stamp(self.path)

    def read_bytes(self) -> bytes:
        data = tables.read_cell(self.path, self.column, self.row)
        if data is None:
            raise ValueError(f"{self}: there are no bytes in this row")
        return data


def of_path(path: str) -> File | Url:
    """The location of a local path or a URL."""
    return Url(path) if urls.is_url(path) else File(path)
