# SPDX-License-Identifier: Apache-2.0
"""What a cache holds against what is asked for: records that fit, and records that nobody asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from diffnext.data.journal import Entry, Journal, sample_key
from diffnext.data.sources import Failure, Source

EDITED = "the file was edited"
RELABELLED = "a caption, label or flow was changed"
GONE = "no longer in the input"


class Held:
    """The records of a cache, each of which answers one sample that is asked for."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._free: dict[str, list[int]] = {}  # key -> records
        self._asked: set[str] = set()
        for index, entry in enumerate(journal.entries):
            self._free.setdefault(entry.key, []).append(index)

    def take(self, entry: Entry) -> bool:
        """Whether there is a record of this content, these fields and this view that is still free.

        The record of a file that was moved or touched is told where the file is now.
        """
        self._asked.add(entry.key)
        free = self._free.get(entry.key)
        if not free:
            return False
        at = next((i for i in free if self.journal.entries[i].path == entry.path), free[0])
        free.remove(at)
        self.journal.move(at, entry.path, entry.stamp)
        return True

    def stale(
        self, sources: Sequence[Source], contents: Sequence[str], failures: Iterable[Failure]
    ) -> dict[int, str]:
        """Records that fit no source any more, and why, by their numbers.

        Not stale are records of listed sources in views that this build does not ask for, and those
        whose file or folder could not be read this time.

        Args:
            sources: all that are listed.
            contents: sha256 of each; "" where it is not known.
            failures: what could not be read.
        """
        left = [index for free in self._free.values() for index in free]
        if not left:
            return {}
        wanted = {self.journal.entries[index].content for index in left}
        listed: dict[str, list[Source]] = {}
        for source, content in zip(sources, contents, strict=True):
            if content in wanted:
                listed.setdefault(content, []).append(source)
        paths = {source.path for source in sources}
        failed = {failure.file for failure in failures}
        reasons = {}
        for index in sorted(left):
            entry = self.journal.entries[index]
            if entry.path not in failed and not _below(entry.path, failed):
                reason = self._why(entry, listed.get(entry.content, []), paths)
                reasons.update({index: reason} if reason else {})
        return reasons

    def _why(self, entry: Entry, same: Sequence[Source], paths: set[str]) -> str:
        """Why a record is stale; "" if a source of the same content still calls for it.

        Args:
            same: the listed sources of the entry's content.
        """
        if entry.key in self._asked:  # there are more records of it than sources
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
