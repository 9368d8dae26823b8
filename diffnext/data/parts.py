# SPDX-License-Identifier: Apache-2.0
"""Joins the records that several processes wrote, each in a part of its own, to one cache.

A shard that its writer has left for good is moved. The last shard of a writer that did not say so is
copied: it may only have been asleep, and would write on in a file that is the cache's by then. A record
is taken once, by its ticket; so what two processes made because one was taken for dead comes in once.

What is to be done is written down before the first file is moved. A process killed after that leaves
the rest to `join` of the next one; before it, nothing was done to the cache. In between, a reader finds
fewer records than there are and is told that the folder was not finished, never a wrong one.

A part that cannot be read, as after a failure of its machine, is put beside the cache's records as it is;
what it held is encoded again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from diffnext.data.cache_folder import open_journal
from diffnext.data.entries import Entries, Entry
from diffnext.data.journal import JOURNAL as SAMPLES
from diffnext.data.journal import load_entries, write_entries
from diffnext.data.ledger import LEDGER, load_failures, write_ledger
from diffnext.data.records import index as indexing
from diffnext.data.records import open_reader, open_writer, wire
from diffnext.data.records.base import DamagedRecord, RecordReader
from diffnext.data.records.folder_writer import DIGITS
from diffnext.data.records.layout import (
    JOURNAL,
    METADATA,
    SHARD,
    index_names,
    read_json,
    unfinished_ok,
    write_json,
)
from diffnext.data.sources import Failure
from diffnext.data.worklist import Worklist
from diffnext.utils.files import move

CLOSED = "closed"  # in a part whose process will not write to it any more
SIDE = "side"  # in the work: the records that are copied
DAMAGED = "diffnext.damaged"  # in the cache: parts that could not be read

Tell = Callable[[str], None]


def close_part(part: str) -> None:
    """Say that nothing more will be written to a part; where the disk has no room, it is not said."""
    with contextlib.suppress(OSError), open(os.path.join(part, CLOSED), "wb"):
        pass


def recorded(work: Worklist, name: str) -> frozenset[int]:
    """The samples that a process has written, by their tickets; none where they cannot be read.

    Raises:
        OSError: the work was done without this process, and is gone.
    """
    try:
        part = _part(work, name)
    except (OSError, ValueError):
        if not work.is_there:
            raise
        return frozenset()
    if part is None:
        return frozenset()
    part.close()
    return frozenset(entry.ticket for entry in part.entries)


def join(output: str, work: Worklist, tell: Tell) -> None:
    """Bring all records of the parts into the cache, whose lock the caller holds, and end the work.

    The ledger becomes that of the work.

    Raises:
        OSError: the disk is too small for what must be copied; nothing is lost.
        ValueError: somebody else wrote down what is to be done, and means other files.
    """
    if not os.path.exists(work.join_file):
        _prepare(output, work, tell)
    orders = read_json(work.join_file)
    _check_moves(work, orders["moves"])
    _carry_out(output, work, orders)
    work.discard()


# ------------------------------------------------------------------------------------ what to join


@dataclass
class _Part:
    """What one process wrote."""

    folder: str
    reader: RecordReader
    entries: Entries
    is_closed: bool

    def shards(self) -> Iterator[tuple[str, range, bool]]:
        """Of each shard its path without ending, its records, and whether it is whole and left."""
        names, first = index_names(self.folder), self.reader.index.first.tolist()
        for number, name in enumerate(names):
            rows = range(first[number], min(first[number + 1], len(self.entries)))
            stem = os.path.join(self.folder, name.removesuffix(".index"))
            is_closed = self.is_closed or number + 1 < len(names)
            yield stem, rows, is_closed and _lines(stem + ".index") == len(rows)

    def close(self) -> None:
        self.reader.close()


@dataclass
class _Take:
    """What of the parts is taken."""

    seen: bytearray  # by ticket: 1 for those taken
    moves: list[str] = field(default_factory=list)  # paths of shards, without ending
    moved: list[tuple[_Part, range]] = field(default_factory=list)  # the records in them
    copies: list[tuple[_Part, int]] = field(default_factory=list)
    copied: list[Entry] = field(default_factory=list)  # of those that are sound
    damaged: list[Failure] = field(default_factory=list)

    def add(self, part: _Part) -> None:
        """Choose from a part what was not taken from another."""
        for stem, rows, is_closed in part.shards():
            fresh = [row for row in rows if self._is_new(part.entries[row].ticket)]
            if is_closed and len(fresh) == len(rows):
                self.moves += [stem] if fresh else []
                self.moved.append((part, rows))
            else:
                self.copies += [(part, row) for row in fresh]

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.moved) + len(self.copied)

    def entries(self) -> Iterator[Entry]:
        """Of all records that are taken, in the order in which they come into the cache."""
        for part, rows in self.moved:
            yield from (replace(part.entries[row], ticket=-1) for row in rows)
        yield from (replace(entry, ticket=-1) for entry in self.copied)

    def _is_new(self, ticket: int) -> bool:
        is_new = not self.seen[ticket]
        self.seen[ticket] = 1
        return is_new


def _prepare(output: str, work: Worklist, tell: Tell) -> None:
    """Write down what is to be done; all that the cache does not hold yet is on the disk then."""
    take = _Take(bytearray(work.samples))
    parts = list(_parts(output, work, tell))
    for part in sorted(parts, key=lambda part: not part.is_closed):
        take.add(part)
    if take.copies:
        tell(f"{len(take.copies)} records are copied from parts that were not closed")
    _copy(work, take)
    for part in parts:
        part.close()
    write_ledger(work.folder, _failures(work, take))
    held = open_journal(output)[0].entries
    write_entries(os.path.join(work.folder, SAMPLES), chain(held, take.entries()))
    numbers = [int(name.removesuffix(".index")) for name in index_names(output)]
    first = max(numbers, default=-1) + 1
    features = wire.feature_types(work.fields)
    orders = {
        "moves": [
            [os.path.relpath(stem, work.folder), str(first + number).zfill(DIGITS)]
            for number, stem in enumerate(take.moves)
        ],
        "metadata": {"entries": len(held) + len(take), "features": features, "version": 1},
    }
    write_json(work.join_file, orders)


def _parts(output: str, work: Worklist, tell: Tell) -> Iterator[_Part]:
    """The parts that hold records, each as it is now; a damaged one is set aside."""
    for name in sorted(os.listdir(work.parts)):
        try:
            part = _part(work, name)
        except (OSError, ValueError) as error:
            aside = os.path.join(output, DAMAGED, name)
            os.makedirs(os.path.dirname(aside), exist_ok=True)
            os.rename(os.path.join(work.parts, name), aside)
            tell(f"what one process wrote cannot be read ({error}); it is in {aside} now")
        else:
            if part is not None:
                yield part


def _part(work: Worklist, name: str) -> _Part | None:
    """The part of one process; None where it wrote nothing.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    folder = os.path.join(work.parts, name)
    is_closed = os.path.exists(os.path.join(folder, CLOSED))  # first: it may be closed right now
    if not os.path.isdir(folder) or not index_names(folder):
        return None
    with unfinished_ok():
        reader = open_reader(folder)
    entries = load_entries(os.path.join(folder, SAMPLES), len(reader))
    strange = [entry for entry in entries if not 0 <= entry.ticket < work.samples]
    if strange:
        raise ValueError(f"{folder}/{SAMPLES} knows {strange[0].path}, which is not in the plan")
    return _Part(folder, reader, entries, is_closed)


def _lines(index_file: str) -> int:
    """Lines of a text index; -1 if the last one is torn."""
    with open(index_file, "rb") as stream:
        text = stream.read()
    return text.count(b"\n") if not text or text.endswith(b"\n") else -1


def _copy(work: Worklist, take: _Take) -> None:
    """Write the records that cannot be moved with their shard to one that can; all are verified."""
    side = os.path.join(work.folder, SIDE)
    shutil.rmtree(side, ignore_errors=True)
    if not take.copies:
        return
    with open_writer(side, work.fields) as writer:
        for part, row in take.copies:
            entry = part.entries[row]
            try:
                record = part.reader[row]
            except (DamagedRecord, OSError) as error:
                take.damaged.append(Failure(entry.path, "join", str(error)))
                continue
            writer.write(record)
            take.copied.append(entry)
    take.moves += [os.path.join(side, name.removesuffix(".index")) for name in index_names(side)]


def _failures(work: Worklist, take: _Take) -> list[Failure]:
    """What did not come in: by the plan, by the processes, and what was lost with one of them."""
    leases = work.leases("")
    failures = {}
    for unit in leases.done():
        for ticket, values in json.loads(leases.result(unit)):
            if not take.seen[ticket]:  # else another process had more luck
                failures[ticket] = Failure(**values)
    known = [failures[ticket] for ticket in sorted(failures)]
    return [*load_failures(work.folder), *known, *take.damaged]


# ----------------------------------------------------------------------------------- what is done


def _check_moves(work: Worklist, moves: list[list[str]]) -> None:
    """Refuse to move any files but the shards of this work, or to anything but a shard."""
    root = os.path.realpath(work.folder)
    for source, stem in moves:
        path = os.path.realpath(os.path.join(root, source))
        if not (path.startswith(root + os.sep) and re.fullmatch("[0-9]+", stem)):
            raise ValueError(
                f"{work.join_file} moves {source} to {stem}, and not a shard of this build to the "
                f"cache; remove {work.folder}, and the same command encodes what was in it"
            )


def _carry_out(output: str, work: Worklist, orders: dict) -> None:
    """Do what is written down; what was done before is passed over."""
    write_json(os.path.join(output, JOURNAL), {"features": orders["metadata"]["features"]})
    Path(output, METADATA).unlink(missing_ok=True)
    for source, stem in orders["moves"]:
        for ending in SHARD:
            move(
                os.path.join(work.folder, source + ending),
                os.path.join(output, stem + ending),
                missing_ok=True,
            )
    for name in (SAMPLES, LEDGER):
        move(os.path.join(work.folder, name), os.path.join(output, name), missing_ok=True)
    write_json(os.path.join(output, METADATA), orders["metadata"])
    with contextlib.suppress(OSError, ValueError):  # of damage that has nothing to do with this
        _save_index(output, work)
    Path(output, JOURNAL).unlink(missing_ok=True)


def _save_index(output: str, work: Worklist) -> None:
    """Spare readers the parsing of the text indexes; the shapes are known by the views."""
    reader = open_reader(output)
    entries = load_entries(os.path.join(output, SAMPLES), len(reader))
    shapes: dict[tuple[int, ...], int] = {}
    ids = (shapes.setdefault(work.latents.shape(view), len(shapes)) for view in entries.views())
    numbers = np.fromiter(ids, np.int64, len(entries))
    if shapes:
        index = reader.index.with_shapes(list(shapes), numbers)
        indexing.save(output, index, indexing.text_state(output))
    reader.close()
