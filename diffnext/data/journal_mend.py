# SPDX-License-Identifier: Apache-2.0
"""Goes on with a cache of whose journal lines are damaged: their records are dropped, to be made again.

What such a record was made of is not known any more, so it can be in the way of its sample. All other
lines must be sure to speak of the records that they did: of a finished cache, because there are as many
as records; of an unfinished one, which may have more, because one flipped bit makes each damaged line
a whole one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from diffnext.data.cache_identity import upgrade_identity
from diffnext.data.entries import HASH, Entries, Entry
from diffnext.data.journal import JOURNAL, parse_line
from diffnext.data.prune import prune
from diffnext.data.records import open_reader, open_writer, read_identity
from diffnext.data.records.layout import METADATA, unfinished_ok
from diffnext.data.records.lock import FolderLock
from diffnext.data.views import View

LONGEST = 1 << 13  # bytes of a line whose bits are flipped, to see whether one makes it whole
NONE = bytes(HASH).hex()
UNKNOWN = Entry(NONE, "", 0, 0, NONE, View(0, 0))  # in the place of a damaged line


def drop_unknown(cache: str, lock: FolderLock) -> list[int]:
    """Drop the records of damaged lines. Killed at any moment, this can be done again.

    Args:
        lock: on the cache, held by the caller.

    Returns:
        The numbers that the records had.

    Raises:
        ValueError: it is not sure which other lines speak of which records; or the disk is too small for
            a copy of the shards that lose records, or one that is to be kept is damaged.
    """
    with unfinished_ok():  # to go on with it is the purpose
        reader = open_reader(cache)
        records, fields = len(reader), dict(reader.fields)
        reader.close()
        finished = os.path.exists(os.path.join(cache, METADATA))
        lines = _read(cache, records)
        unknown = lines.unknown(records if finished else None)
        if not finished:
            os.truncate(os.path.join(cache, JOURNAL), lines.num_bytes)
            open_writer(cache, fields, append=True, lock=lock).close()
    prune(cache, set(unknown), lines.entries)
    return unknown


@dataclass
class _Lines:
    """Those of a journal, as far as there are records."""

    path: str
    entries: Entries = field(default_factory=Entries)
    damaged: list[int] = field(default_factory=list)
    # of these, those that may not be one line each
    misplaced: list[int] = field(default_factory=list)
    num_bytes: int = 0
    count: int = 0  # of all, those without records too

    def unknown(self, records: int | None) -> list[int]:
        """Records of which it is not known what they were made of.

        Args:
            records: as many as there must be lines; None: there may be more.

        Raises:
            ValueError: the good lines are not sure to speak of the records of their numbers.
        """
        if self.misplaced if records is None else self.count != records:
            raise ValueError(
                f"{self.path}: lines from {self.damaged[0] + 1} on are damaged or lost, and which of the "
                "others speak of which records is not sure; put the file back from a copy, or choose "
                "another --output"
            )
        between = range(self.misplaced[0], self.misplaced[-1]) if self.misplaced else ()
        return sorted({*self.damaged, *between})


def _read(cache: str, records: int) -> _Lines:
    lines, views = _Lines(os.path.join(cache, JOURNAL)), {}
    view = upgrade_identity(read_identity(cache) or {})[1]
    with open(lines.path, "rb") as stream:
        for number, line in enumerate(stream):
            lines.count += 1
            if number >= records:
                continue
            lines.num_bytes += len(line)
            entry = _parse(line, views, view)
            lines.entries.append(entry or UNKNOWN)
            if entry is None:
                lines.damaged.append(number)
                if not _is_one_bit_off(line, view):
                    lines.misplaced.append(number)
    return lines


def _parse(line: bytes, views: dict[str, View], view: View | None) -> Entry | None:
    """The entry of a line; None if it is damaged."""
    try:
        entry = parse_line(line.decode(), views, view)
        Entries([entry])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return entry if line.endswith(b"\n") else None


def _is_one_bit_off(line: bytes, view: View | None) -> bool:
    """Whether a line is whole but for one bit, and so nothing else than one line."""
    if len(line) > LONGEST or not line.endswith(b"\n"):
        return False
    candidate = bytearray(line)
    for place in range(len(line) - 1):
        for bit in range(8):
            candidate[place] ^= 1 << bit
            if _parse(bytes(candidate), {}, view):
                return True
            candidate[place] ^= 1 << bit
    return False
