# SPDX-License-Identifier: Apache-2.0
"""What a cache holds against what is asked for: records that fit, and records that nobody asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np

from diffnext.data.entries import Entry
from diffnext.data.journal import Journal, sample_key
from diffnext.data.lookup import WIDTH, Lookup, stamp_digest
from diffnext.data.sources import Failure, Source

EDITED = "the file was edited"
RELABELLED = "a caption, label or flow was changed"
GONE = "no longer in the input"


class Held:
    """The records of a cache, each of which answers one sample that is asked for.

    This takes 50 bytes a record.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        entries, files = journal.entries, bytearray()
        for row in range(len(entries)):
            files += stamp_digest(entries.path(row), entries.stamp(row))
        self._by_file, self._by_key = Lookup(files), Lookup(entries.keys())
        self._sizes = entries.sizes()
        self._is_free = bytearray(b"\1") * len(entries)
        self._is_asked = bytearray(len(entries))  # by the first place of a key
        self._next: dict[int, int] = {}  # first place of a key -> the first that may be free

    def content(self, path: str, stamp: tuple[int, int]) -> str:
        """The sha256 of a file that is as it was when it was encoded; "" where that is not known."""
        places = self._by_file.find(stamp_digest(path, stamp))
        return self.journal.entries.content(self._by_file.item(places[-1])) if places else ""

    def may_hold(self, stamp: tuple[int, int], *, own_size: bool = True) -> bool:
        """Whether a file of this size was encoded, and so perhaps this one, moved or touched.

        Args:
            own_size: whether the size is that of the medium alone; else any may be it.
        """
        if not own_size:
            return len(self._sizes) > 0
        place = self._sizes.searchsorted(stamp[0])
        return place < len(self._sizes) and self._sizes[place] == stamp[0]

    def take(self, entry: Entry) -> bool:
        """Whether there is a record of this content, these fields and this view that is still free.

        The record of a file that was moved or touched is told where the file is now.
        """
        places = self._by_key.find(half(entry.key))
        if not places:
            return False
        self._is_asked[places[0]] = 1
        row = self._own(entry) if len(places) > 1 else None
        row = self._first_free(places) if row is None else row
        if row is None:
            return False
        self._is_free[row] = 0
        self.journal.move(row, entry.path, entry.stamp)
        return True

    def _own(self, entry: Entry) -> int | None:
        """The free record of this key that is of this very file."""
        for place in self._by_file.find(stamp_digest(entry.path, entry.stamp)):
            row = self._by_file.item(place)
            if self._is_free[row] and self.journal.entries.key(row) == entry.key:
                return row
        return None

    def _first_free(self, places: range) -> int | None:
        """The first free record of a key; what is not free is passed over once."""
        for place in range(self._next.get(places[0], places[0]), places.stop):
            row = self._by_key.item(place)
            if self._is_free[row]:
                return row
            self._next[places[0]] = place + 1
        return None

    def stale(
        self, sources: Sequence[Source], contents: bytearray, failures: Iterable[Failure]
    ) -> dict[int, str]:
        """Records that fit no source any more, and why, by their numbers.

        Not stale are records of listed sources in views that this build does not ask for, and those
        whose file or folder could not be read this time.

        Args:
            sources: all that are listed.
            contents: of each the first half of the sha256; zeros where it is not known.
            failures: what could not be read.
        """
        left = np.flatnonzero(np.frombuffer(self._is_free, bool)).tolist()
        if not left:
            return {}
        by_content = Lookup(contents)
        paths = {self.journal.entries.path(row) for row in left}
        listed = {path for source in sources if (path := source.path) in paths}
        failed = {failure.file for failure in failures}
        reasons = {}
        for row in left:
            entry = self.journal.entries[row]
            if entry.path not in failed and not _below(entry.path, failed):
                places = by_content.find(half(entry.content))
                same = [sources[by_content.item(place)] for place in places]
                reasons.update({row: reason} if (reason := self._why(entry, same, listed)) else {})
        return reasons

    def _why(self, entry: Entry, same: Sequence[Source], paths: set[str]) -> str:
        """Why a record is stale; "" if a source of the same content still calls for it.

        Args:
            same: the listed sources of the entry's content.
        """
        if self._is_asked[self._by_key.find(half(entry.key))[0]]:  # of more records than sources
            return GONE
        if any(sample_key(entry.content, s.fields(), entry.view) == entry.key for s in same):
            return ""
        if same:
            return RELABELLED
        return EDITED if entry.path in paths else GONE


def _below(path: str, folders: set[str]) -> bool:
    """Whether a path lies in one of these folders, however deep."""
    parent = os.path.dirname(path)
    while parent != path:
        if parent in folders:
            return True
        path, parent = parent, os.path.dirname(parent)
    return False


def half(digest: str) -> bytes:
    """The first half of a sha256; zeros for one that is not known."""
    return bytes.fromhex(digest[: 2 * WIDTH]) or bytes(WIDTH)
