# SPDX-License-Identifier: Apache-2.0
"""What a cache was built from, sample by sample, in a file beside the records: line n is record n.

A line is written before its record. So after a killed build there are as many lines as records or
more, and the lines without a record are cut off when the build goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TextIO

from diffnext.data.entries import Entries, Entry
from diffnext.data.progress import Progress, silent
from diffnext.data.records.layout import SAMPLES as JOURNAL
from diffnext.data.views import View
from diffnext.utils.files import replacing


def sample_key(content: str, fields: Mapping[str, Any], view: View) -> str:
    """The sha256 of what a record is made from: the medium's content, its captions, and the view.

    How a view is cut and encoded stands in the identity of the cache, on which all its records agree.
    """
    text = json.dumps([content, dict(fields), view.state()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class DamagedJournal(ValueError):
    """A line is damaged; see `journal_mend`."""


class Journal:
    """The entries of a folder of records, in the order of the records.

    Args:
        folder: the cache, or the part of one that a writer of its own makes.
        records: how many records it holds; further lines speak of records that were never finished.
        view: of the lines that name none, as caches of version 1 wrote them.
        progress: wraps the lines, to show how far their reading is.

    Raises:
        DamagedJournal: a line of a record is damaged.
        ValueError: records that no line speaks of.
    """

    def __init__(
        self, folder: str, records: int, view: View | None = None, progress: Progress = silent
    ) -> None:
        self.path = os.path.join(folder, JOURNAL)
        self.entries, size = _load(self.path, records, view, progress)
        found = self._num_bytes()
        if len(self.entries) < records:
            what = f"{folder} holds {records} records, {JOURNAL} in it knows {len(self.entries)}:"
            if size < found:
                raise DamagedJournal(
                    f"{what} its line {len(self.entries) + 1} is damaged; a build without --dry-run makes "
                    "its record again"
                )
            raise ValueError(
                f"{what} it was not built by this tool, or the file was lost; choose another --output"
            )
        self.moved = 0  # entries whose file has another place or time of change than the lines say
        self._is_exact = view is None and size == found  # the file says the entries, and no more

    def _num_bytes(self) -> int:
        """Size of the file; -1: there is none."""
        return os.path.getsize(self.path) if os.path.exists(self.path) else -1

    def move(self, index: int, path: str, stamp: tuple[int, int]) -> None:
        """Note where the file of an entry is now."""
        if (self.entries.path(index), self.entries.stamp(index)) != (path, stamp):
            self.entries.move(index, path, stamp)
            self.moved += 1

    def rewrite(self) -> None:
        """Store the entries that have records, without the rest of an unfinished build.

        Where the file has them so, it is left: millions of lines take a while.
        """
        if self.moved or not self._is_exact:
            write_entries(self.path, self.entries)
        self.moved, self._is_exact = 0, True

    def append(self, entries: Sequence[Entry]) -> int:
        """Add lines and bring them to the disk. Returns how many."""
        with open(self.path, "ab") as stream:
            stream.writelines(_line(entry).encode() for entry in entries)
            stream.flush()
            os.fsync(stream.fileno())
        self.entries.extend(entries)
        return len(entries)

    def take_back(self, count: int) -> None:
        """Remove the last lines again: not all of their records come."""
        first = len(self.entries) - count
        size = sum(len(_line(entry).encode()) for entry in self.entries[first:])
        os.truncate(self.path, os.path.getsize(self.path) - size)
        self.entries.cut(first)


def load_entries(path: str, most: int) -> Entries:
    """The first complete lines of a file, at most so many; a torn one ends the list."""
    return _load(path, most, None, silent)[0]


def _load(path: str, most: int, view: View | None, progress: Progress) -> tuple[Entries, int]:
    """The same, and how many bytes these lines take; their writer knows ASCII alone."""
    entries = Entries()
    size = 0
    views: dict[str, View] = {}  # one object for all that are equal
    if os.path.exists(path):
        with open_lines(path) as stream:
            for line in progress(islice(stream, most), most, "journal"):
                try:
                    entries.append(parse_line(line, views, view))
                except (AttributeError, KeyError, TypeError, ValueError):
                    break
                size += len(line) if line.endswith("\n") else 0
    return entries, size


def open_lines(path: str) -> TextIO:
    """Open a journal; bytes that are no text, as damage leaves them, do not keep lines from coming."""
    return open(path, encoding="utf-8", errors="surrogateescape", newline="\n")


def parse_line(line: str, views: dict[str, View], view: View | None = None) -> Entry:
    """The entry that a line of a journal holds.

    Args:
        views: those seen so far, to have one object for all that are equal; a new one is added.
        view: of a line that names none.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is no such line.
    """
    if not line.isascii():
        line.encode()  # a UnicodeError, which is a ValueError, for what is no text
    return _entry(json.loads(line), views, view)


def write_line(stream: TextIO, entry: Entry) -> None:
    """Add an entry to an open journal."""
    stream.write(_line(entry))


def write_entries(path: str, entries: Iterable[Entry]) -> None:
    """Store entries under this name, all of them or none."""
    with replacing(path) as aside, open(aside, "w", encoding="utf-8") as stream:
        stream.writelines(map(_line, entries))


def _line(entry: Entry) -> str:
    values = {name: getattr(entry, name) for name in ("key", "path", "size", "mtime_ns", "content")}
    if entry.ticket >= 0:
        values["ticket"] = entry.ticket
    return json.dumps({**values, "view": entry.view.state()}) + "\n"


def _entry(values: dict[str, Any], views: dict[str, View], view: View | None) -> Entry:
    state = values.pop("view", None)
    if state is not None:
        name = repr(state)
        view = views.get(name) or views.setdefault(name, View.from_state(state))
    if view is None:
        raise ValueError("a line without a view")
    names = ("key", "path", "size", "mtime_ns", "content")
    return Entry(*(values[name] for name in names), view, values.get("ticket", -1))
