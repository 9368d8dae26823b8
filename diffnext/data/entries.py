# SPDX-License-Identifier: Apache-2.0
"""The lines of a journal in memory: 100 bytes each and the path of the medium, not 600."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from diffnext.data.views import View

HASH = 32  # bytes of a sha256
ANY_PATH = "surrogatepass"  # names of files may be no text


@dataclass(frozen=True, slots=True)
class Entry:
    """The source of one record."""

    key: str  # see journal.sample_key
    path: str
    size: int  # bytes of the file, and its time of change: while both stay, the content stays
    mtime_ns: int
    content: str  # sha256
    view: View
    ticket: int = -1  # in a part of a cache: which sample of the plan it is; see parts.py

    @property
    def stamp(self) -> tuple[int, int]:
        return self.size, self.mtime_ns


class Entries(Sequence[Entry]):
    """A list of entries that holds them in columns, and makes one anew when it is asked for.

    Raises:
        ValueError: a key or a content that is no sha256 in hexadecimal digits, or a number that is no
            int64; then nothing is added.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._hashes = bytearray()  # of each the key, then the content
        self._numbers = array("q")  # of each size, time of change, ticket
        self._paths, self._ends = bytearray(), array("q", [0])
        self._moved: dict[int, str] = {}  # paths that were changed since
        self._views: list[View] = []
        self._view_ids = array("I")
        self._known: dict[View, int] = {}
        self.extend(entries)

    def append(self, entry: Entry) -> None:
        hashes = bytes.fromhex(entry.key) + bytes.fromhex(entry.content)
        if len(hashes) != 2 * HASH:
            raise ValueError(f"{entry.key} and {entry.content} are no two sha256")
        try:
            numbers = array("q", (entry.size, entry.mtime_ns, entry.ticket))
        except OverflowError as error:
            raise ValueError(f"a number of {entry} is beyond the range of int64") from error
        path = entry.path.encode(errors=ANY_PATH)
        view = self._known.get(entry.view)
        if view is None:
            view = self._known[entry.view] = len(self._views)
            self._views.append(entry.view)
        self._hashes += hashes  # from here on nothing fails
        self._numbers += numbers
        self._paths += path
        self._ends.append(len(self._paths))
        self._view_ids.append(view)

    def extend(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.append(entry)

    def cut(self, length: int) -> None:
        """Remove all entries from this number on."""
        del self._hashes[2 * HASH * length :], self._numbers[3 * length :]
        del self._view_ids[length:], self._ends[length + 1 :]
        del self._paths[self._ends[length] :]
        self._moved = {row: path for row, path in self._moved.items() if row < length}

    def move(self, row: int, path: str, stamp: tuple[int, int]) -> None:
        """Change where the file of an entry is, and its size and time of change."""
        self._moved[row] = path
        self._numbers[3 * row], self._numbers[3 * row + 1] = stamp

    def __iter__(self) -> Iterator[Entry]:
        return (self[row] for row in range(len(self)))

    def __len__(self) -> int:
        return len(self._view_ids)

    @overload
    def __getitem__(self, row: int) -> Entry: ...
    @overload
    def __getitem__(self, row: slice) -> list[Entry]: ...
    def __getitem__(self, row: int | slice) -> Entry | list[Entry]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        size, mtime_ns, ticket = self._numbers[3 * row : 3 * row + 3]
        made_of = (
            self.path(row),
            size,
            mtime_ns,
            self.content(row),
            self._views[self._view_ids[row]],
        )
        return Entry(self.key(row), *made_of, ticket)

    def path(self, row: int) -> str:
        """The path of one entry."""
        if row in self._moved:
            return self._moved[row]
        return self._paths[self._ends[row] : self._ends[row + 1]].decode(errors=ANY_PATH)

    def stamp(self, row: int) -> tuple[int, int]:
        """Size and time of change of the file of one entry."""
        return self._numbers[3 * row], self._numbers[3 * row + 1]

    def key(self, row: int) -> str:
        """The key of one entry."""
        return self._hash(2 * row)

    def content(self, row: int) -> str:
        """The sha256 of the medium of one entry."""
        return self._hash(2 * row + 1)

    def views(self) -> Iterator[View]:
        """The view of each entry."""
        return (self._views[number] for number in self._view_ids)

    def sizes(self) -> np.ndarray:
        """The sizes of the files, each once, rising: (M,) int64."""
        return np.unique(np.frombuffer(self._numbers, np.int64)[::3])

    def keys(self) -> bytes:
        """The first halves, 16 bytes, of all keys."""
        return np.frombuffer(self._hashes, "V16")[::4].tobytes()

    def _hash(self, number: int) -> str:
        return self._hashes[HASH * number : HASH * (number + 1)].hex()
