# SPDX-License-Identifier: Apache-2.0
"""Drops records from a cache or replaces them. A process killed at any moment leaves the old or the new one.

What is kept of the shards that lose records is written anew in a folder inside the cache. Then one file
there says what is to be done, and from then on the new cache counts: what is left to do is done by
`recover`. Until it is, a reader finds fewer records than there are, and is told that the folder was not
finished, but never a wrong one: an index appears after its shard and goes before it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from diffnext.data.journal import JOURNAL as SAMPLES
from diffnext.data.journal import Entry, write_entries
from diffnext.data.records import Record, RecordError, open_writer
from diffnext.data.records.files import PatientFiles
from diffnext.data.records.folder_reader import FolderReader
from diffnext.data.records.layout import JOURNAL, METADATA, SHARD, index_names, write_json
from diffnext.utils.files import move

SIDE = "diffnext.prune"
ORDERS = "orders.json"


def prune(
    folder: str,
    drop: Collection[int],
    entries: Sequence[Entry] | None,
    *,
    mended: Mapping[int, Callable[[], Record]] | None = None,
) -> None:
    """Drop records from a finished cache, whose lock the caller holds. Their order may change.

    Args:
        drop: numbers of the records.
        entries: of the journal, one for each record; None: there is no journal.
        mended: number of a damaged record -> reads the one that takes its place.

    Raises:
        ValueError: the disk is too small for a copy of the shards that lose records, or a record
            that is to be kept is damaged.
    """
    recover(folder)
    mended = mended or {}
    reader = FolderReader(folder, files=PatientFiles)
    stems = [name.removesuffix(".index") for name in index_names(folder)]
    touched, rows = _touched(reader.index.first, {*drop, *mended})
    kept, gone = [row for row in rows if row not in drop], set(rows)
    _check_room(folder, int(reader.index.size[kept].sum()))
    side = os.path.join(folder, SIDE)
    with open_writer(side, reader.fields) as writer:
        for row in kept:
            writer.write(mended[row]() if row in mended else reader[row])
    reader.close()
    if entries is not None:
        stay = (entry for row, entry in enumerate(entries) if row not in gone)
        moved = (entries[row] for row in kept)
        write_entries(os.path.join(side, SAMPLES), chain(stay, moved))
    left = len(reader) - len(gone) + len(kept)
    orders = {
        "remove": [stems[shard] for shard in touched],
        "number": int(stems[-1]) + 1,
        "digits": len(stems[-1]),
        "metadata": {"entries": left, "features": dict(reader.fields), "version": 1},
    }
    write_json(os.path.join(side, ORDERS), orders)
    recover(folder)


def _touched(first: np.ndarray, rows: Collection[int]) -> tuple[list[int], list[int]]:
    """The shards that hold some of these records, and all records of theirs.

    Args:
        first: record of each shard, and the end.
    """
    shards = np.unique(np.searchsorted(first, sorted(rows), "right") - 1).tolist()
    return shards, [row for i in shards for row in range(int(first[i]), int(first[i + 1]))]


def is_pending(folder: str) -> bool:
    """Whether records were being dropped when a process was killed, past the point of no return."""
    return os.path.exists(os.path.join(folder, SIDE, ORDERS))


def recover(folder: str) -> None:
    """Do what is left to do of an interrupted `prune`, or clear away what it began in vain."""
    side = os.path.join(folder, SIDE)
    if is_pending(folder):
        with open(os.path.join(side, ORDERS), encoding="utf-8") as stream:
            orders = json.load(stream)
        write_json(os.path.join(folder, JOURNAL), {"features": orders["metadata"]["features"]})
        Path(folder, METADATA).unlink(missing_ok=True)
        _swap_shards(folder, side, orders)
        move(os.path.join(side, SAMPLES), os.path.join(folder, SAMPLES), missing_ok=True)
        write_json(os.path.join(folder, METADATA), orders["metadata"])
        Path(folder, JOURNAL).unlink(missing_ok=True)
        Path(side, ORDERS).unlink(missing_ok=True)
        with contextlib.suppress(
            OSError, RecordError
        ):  # of damage that has nothing to do with this
            FolderReader(folder).save_index()
    shutil.rmtree(side, ignore_errors=True)


def _swap_shards(folder: str, side: str, orders: dict[str, Any]) -> None:
    """Remove the old shards and move the new ones in; what was done already is passed over."""
    for stem in orders["remove"]:
        for ending in reversed(SHARD):  # of this folder, whoever wrote the orders
            Path(folder, os.path.basename(stem) + ending).unlink(missing_ok=True)
    for name in sorted(os.listdir(side)):
        stem, ending = os.path.splitext(name)
        if ending == ".index":
            number = str(orders["number"] + int(stem)).zfill(orders["digits"])
            for part in SHARD:
                move(
                    os.path.join(side, stem + part),
                    os.path.join(folder, number + part),
                    missing_ok=True,
                )


def _check_room(folder: str, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(
            f"{folder}: to drop records, {num_bytes} bytes are written anew, and {free} are free"
        )
