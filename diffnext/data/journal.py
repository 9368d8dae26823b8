# SPDX-License-Identifier: Apache-2.0
"""What a cache was built from, sample by sample, in a file beside the records: line n is record n.

A line is written before its record. So after a killed build there are as many lines as records or
more, and the lines without a record are cut off when the build goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from diffnext.data.records.files import write_atomic
from diffnext.data.sources import Failure

JOURNAL = "diffnext.samples.jsonl"
LEDGER = "failures.jsonl"


@dataclass(frozen=True)
class Entry:
    """The source of one record."""

    key: str  # sha256 of the content, the fields and the cut
    path: str
    size: int  # bytes of the file, and its time of change: while both stay, the content stays
    mtime_ns: int
    content: str  # sha256


class Journal:
    """The entries of a cache folder, in the order of its records.

    Args:
        folder: the cache.
        records: how many records it holds; further lines speak of records that were never finished.

    Raises:
        ValueError: records that no line speaks of.
    """

    def __init__(self, folder: str, records: int) -> None:
        self.path = os.path.join(folder, JOURNAL)
        self.entries = _load(self.path)[:records]
        if len(self.entries) < records:
            raise ValueError(
                f"{folder} holds {records} records, {JOURNAL} in it knows "
                f"{len(self.entries)}: it was not built by this tool, "
                "or the file was lost; choose another --output"
            )
        self._known = {(e.path, e.size, e.mtime_ns): e.content for e in self.entries}

    def content(self, path: str) -> tuple[int, int, str]:
        """Size, time of change and sha256 of a file; read only if changed since it was encoded."""
        stat = os.stat(path)
        known = self._known.get((path, stat.st_size, stat.st_mtime_ns))
        return stat.st_size, stat.st_mtime_ns, known or _hash_file(path)

    def rewrite(self) -> None:
        """Store the entries that have records, without the rest of an unfinished build."""
        write_atomic(self.path, "".join(_line(entry) for entry in self.entries).encode())

    def append(self, entries: Sequence[Entry]) -> None:
        """Add lines and bring them to the disk."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.writelines(_line(entry) for entry in entries)
            stream.flush()
            os.fsync(stream.fileno())
        self.entries.extend(entries)


def write_ledger(folder: str, failures: Iterable[Failure]) -> None:
    """Store what did not come into the cache, a line each; replaces the ledger of the last run."""
    os.makedirs(folder, exist_ok=True)
    lines = [json.dumps(asdict(failure)) + "\n" for failure in failures]
    write_atomic(os.path.join(folder, LEDGER), "".join(lines).encode())


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry)) + "\n"


def _load(path: str) -> list[Entry]:
    """All complete lines; a torn one ends the list."""
    entries = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                try:
                    entries.append(Entry(**json.loads(line)))
                except (TypeError, ValueError):
                    break
    return entries


def _hash_file(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
