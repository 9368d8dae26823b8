# SPDX-License-Identifier: Apache-2.0
"""Make damaged records of a cache again, from what its journal says they were made of, or drop them.

The new records are written into a folder inside the cache first. Those that have the checksum of what
was there before it was damaged are copied to where they were, and nothing else of the cache changes.
The others, made by another device or another batch, differ in last digits; they take their places all
at once: see `prune`. What a killed process leaves is cleared away by the next one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffnext.data.cache_folder import open_journal
from diffnext.data.entries import Entries
from diffnext.data.progress import Progress, silent
from diffnext.data.prune import prune
from diffnext.data.records import Record, open_reader, open_writer
from diffnext.data.records.checks import CHECK
from diffnext.data.records.layout import index_names, unfinished_ok
from diffnext.data.records.lock import FolderLock
from diffnext.data.tools.opening import Cache
from diffnext.data.tools.remake import Remedy, remake
from diffnext.utils.files import remove_drafts, sync_file, write_bytes

ASIDE, RECORDS = "diffnext.mended", "records"


@dataclass
class Outcome:
    """What became of the damaged records."""

    mended: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)  # why one could not be encoded again


def repair(
    path: str,
    damaged: Sequence[int],
    *,
    remedy: Remedy | None,
    drop: bool = False,
    progress: Progress = silent,
) -> Outcome:
    """Mend a finished cache, whose lock the caller holds. The order of its records may change.

    Where a record can be neither encoded again nor dropped, records are put back to where they were, and
    nothing else is changed.

    Args:
        damaged: numbers of the damaged records.
        remedy: encodes them again; None: they are dropped.
        drop: drop those that cannot be encoded again.

    Raises:
        ValueError: the journal is lost, or the disk is too small.
    """
    cache = Cache(path, patient=True)
    entries = Entries(cache.entries()) if cache.has_journal else None
    aside = os.path.join(path, ASIDE)
    clear(path)
    outcome, places, rest = Outcome(), {}, {}
    try:
        if remedy is not None and entries is None:
            outcome.failed = dict.fromkeys(damaged, "there is no journal that names its source")
        elif remedy is not None:
            chosen = [(row, entries[row]) for row in damaged]
            mended = remake(cache, chosen, remedy, outcome.failed, aside, progress)
            places = _write_aside(os.path.join(aside, RECORDS), cache.reader.fields, mended)
            rest = _write_back(cache, os.path.join(aside, RECORDS), places)
        outcome.mended = sorted(places.keys() - rest)
        lost = [row for row in damaged if row not in places]
        if lost and not drop:
            return outcome
        outcome.mended, outcome.dropped = sorted(places), lost
        if rest or lost:
            prune(path, set(lost), entries, mended=rest)
    finally:
        cache.close()
        clear(path)
    return outcome


def clear(path: str) -> None:
    """Remove what a killed repair left, which may have been killed when all was mended.

    The caller holds the lock of the cache.
    """
    remove_drafts(path)
    shutil.rmtree(os.path.join(path, ASIDE), ignore_errors=True)


def finish(path: str, lock: FolderLock) -> None:
    """Close an unfinished cache: what is complete in it counts from now on.

    Args:
        lock: on the folder, held by the caller.

    Raises:
        ValueError: a shard is lost as well, or a build by many processes is not joined.
    """
    cache = Cache(path)
    fields = cache.reader.fields
    cache.close()
    if cache.has_journal:
        open_journal(path)[0].rewrite()
    with unfinished_ok():  # to finish it is the purpose
        open_writer(path, fields, append=True, lock=lock).close()


def write_sums(path: str, damaged: Collection[int]) -> None:
    """Write the checksums beside the shards as the index that readers map has them.

    Those of shards with damaged records stay; they are written with their records.
    """
    with contextlib.closing(Cache(path, patient=True)) as cache:
        for shard, name in enumerate(index_names(path)):
            rows = range(*map(int, cache.reader.index.first[shard : shard + 2]))
            file = cache.file(name.removesuffix(".index") + CHECK)
            if os.path.exists(file) and not any(row in rows for row in damaged):
                _write_sums(cache, shard)


def _write_sums(cache: Cache, shard: int) -> None:
    index = cache.reader.index
    sums = index.sums[int(index.first[shard]) : int(index.first[shard + 1])]
    file = index_names(cache.path)[shard].removesuffix(".index") + CHECK
    write_bytes(cache.file(file), sums.astype("<u8").tobytes())


def _write_aside(
    aside: str, fields: Mapping[str, Any], mended: Iterable[tuple[int, Record]]
) -> dict[int, int]:
    """Write records into a folder of their own. Returns number in the cache -> number there."""
    places: dict[int, int] = {}
    with open_writer(aside, fields) as writer:
        for row, record in mended:
            writer.write(record)
            places[row] = len(places)
    return places


def _write_back(
    cache: Cache, aside: str, places: Mapping[int, int]
) -> dict[int, Callable[[], Record]]:
    """Copy records that are as they were, bit for bit, to where they were.

    Broken off, it leaves a record damaged that was, and no other.

    Returns:
        What reads each of the others, by its number in the cache.
    """
    made, names = open_reader(aside), index_names(cache.path)
    others, touched = {}, set()
    for row, place in places.items():
        data, total = made.raw(place)
        shard, offset, size, wanted = cache.reader.index.locate(row)
        if (len(data), total) != (size, wanted):
            others[row] = functools.partial(made.__getitem__, place)
            continue
        _overwrite(cache.file(names[shard].removesuffix(".index") + ".data"), offset, data)
        touched.add(shard)
    for shard in touched:
        sync_file(cache.file(names[shard].removesuffix(".index") + ".data"))
        _write_sums(cache, shard)
    return others


def _overwrite(path: str, offset: int, data: bytes) -> None:
    """Write into a file, which is made if it is lost and grows if it is too short."""
    with open(path, "r+b" if os.path.exists(path) else "wb") as stream:
        stream.seek(offset)
        stream.write(data)
