# SPDX-License-Identifier: Apache-2.0
"""Encode damaged records of a cache again, from what its journal says they were made of, or drop them.

The new records are written into a folder inside the cache first. Then they take their places, all at
once: see `prune`. What a killed process leaves is cleared away by the next one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffnext.data import encoding
from diffnext.data.cache_identity import Latents, open_journal
from diffnext.data.decoding import LIMIT_S, Decoded, Order, decode_ahead
from diffnext.data.encoding import Encode
from diffnext.data.journal import Entry, sample_key
from diffnext.data.location import Location
from diffnext.data.prune import prune
from diffnext.data.records import Record, open_reader, open_writer, wire
from diffnext.data.records.checks import CHECK
from diffnext.data.records.files import write_atomic
from diffnext.data.records.layout import index_names
from diffnext.data.records.lock import FolderLock
from diffnext.data.sources import Source
from diffnext.data.tools.finding import locate
from diffnext.data.tools.opening import Cache, Progress, silent
from diffnext.data.workers import WorkError

ASIDE = "diffnext.mended"


@dataclass(frozen=True)
class Remedy:
    """What encodes records again.

    Args:
        encode: frames (1, T, H, W, 3) uint8 to moments.
        latents: sizes of the autoencoder.
        sources: media with their captions, by path, for records whose own captions are damaged.
        workers: processes that decode.
        limit_s: seconds that one medium may take.
    """

    encode: Encode
    latents: Latents
    sources: Mapping[str, Source] = field(default_factory=dict)
    workers: int = 1
    limit_s: float = LIMIT_S


@dataclass
class Outcome:
    """What became of the damaged records."""

    mended: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)  # why one could not be encoded again


@dataclass(frozen=True)
class Case:
    """A damaged record whose source is there and whose fields are known."""

    row: int
    entry: Entry
    fields: Mapping[str, Any]
    scored: bool  # whether its motion score must be computed


def repair(
    path: str,
    damaged: Sequence[int],
    *,
    remedy: Remedy | None,
    drop: bool = False,
    progress: Progress = silent,
) -> Outcome:
    """Mend a finished cache, whose lock the caller holds. The order of its records may change.

    Where a record can be neither encoded again nor dropped, nothing is changed.

    Args:
        damaged: numbers of the damaged records.
        remedy: encodes them again; None: they are dropped.
        drop: drop those that cannot be encoded again.

    Raises:
        ValueError: the journal is lost, or the disk is too small.
    """
    cache = Cache(path, patient=True)
    entries = list(cache.entries()) if cache.has_journal else None
    aside = os.path.join(path, ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    outcome, places = Outcome(), {}
    try:
        if remedy is not None and entries is None:
            outcome.failed = dict.fromkeys(damaged, "there is no journal that names its source")
        elif remedy is not None:
            chosen = [(row, entries[row]) for row in damaged]
            mended = encode_again(cache, chosen, remedy, outcome.failed, progress)
            places = _write_aside(aside, cache.reader.fields, mended)
        cache.close()
        lost = [row for row in damaged if row not in places]
        if lost and not drop:
            return outcome
        outcome.mended, outcome.dropped = sorted(places), lost
        _put_in_place(path, aside, places, lost, entries)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return outcome


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an unfinished folder: to finish it is the purpose
        open_writer(path, fields, append=True, lock=lock).close()


def write_sums(path: str, damaged: Collection[int]) -> None:
    """Write the checksums beside the shards as the index that readers map has them.

    Those of shards with damaged records stay; such a shard is written anew, with its checksums.
    """
    with contextlib.closing(Cache(path, patient=True)) as cache:
        index = cache.reader.index
        for number, name in enumerate(index_names(path)):
            rows = range(int(index.first[number]), int(index.first[number + 1]))
            file = cache.file(name.removesuffix(".index") + CHECK)
            if os.path.exists(file) and not any(row in rows for row in damaged):
                sums = index.sums[rows.start : rows.stop]
                write_atomic(file, sums.astype("<u8").tobytes())


def encode_again(
    cache: Cache,
    damaged: Iterable[tuple[int, Entry]],
    remedy: Remedy,
    failed: dict[int, str],
    progress: Progress = silent,
) -> Iterator[tuple[int, Record]]:
    """Yield records anew, with their numbers; note in `failed` why others could not be made."""
    cases = list(_cases(cache, damaged, remedy, failed))
    decoded = decode_ahead(cases, workers=remedy.workers, limit_s=remedy.limit_s)
    for case, outcome in progress(decoded, len(cases), "repair"):
        try:
            yield case.row, _record(cache, case, outcome, remedy)
        except (RuntimeError, ValueError) as error:
            failed[case.row] = f"{case.entry.path}: {error}"


def _cases(
    cache: Cache, damaged: Iterable[tuple[int, Entry]], remedy: Remedy, failed: dict[int, str]
) -> Iterator[tuple[Case, Order]]:
    for row, entry in damaged:
        try:
            location = locate(entry)
            case = _case(cache, row, entry, remedy)
            order = _order(location, case)
        except (OSError, ValueError) as error:
            failed[row] = str(error)
        else:
            yield case, order


def _order(location: Location, case: Case) -> Order:
    view = (case.entry.view,)
    return Order(location, view, location.stamp(), hashed=True, scored=case.scored)


def _case(cache: Cache, row: int, entry: Entry, remedy: Remedy) -> Case:
    """Find the fields of a record whose key, a sha256 over them, stands in the journal.

    Mostly it is the moments that are damaged, as they are nearly all of a record; then the fields are
    read from it.
    """
    candidates = [_readable(cache, row)]
    if entry.path in remedy.sources:
        candidates.append(remedy.sources[entry.path].fields())
    computed = "flow" in (cache.identity or {}).get("rules", {})
    if any(isinstance(kind, dict) for kind in cache.reader.fields.values()):
        raise ValueError(
            f"{entry.path}: its prompts are embedded, and that takes the text encoder too; drop the "
            "record (--drop), and run the command that built the cache again (--encode-prompts): it "
            "makes what is missing"
        )
    for fields in candidates:
        if sample_key(entry.content, fields, entry.view) == entry.key:
            return Case(row, entry, fields, computed and "flow" not in fields)
        rest = {name: value for name, value in fields.items() if name != "flow"}
        if computed and sample_key(entry.content, rest, entry.view) == entry.key:
            return Case(row, entry, rest, scored=True)
    raise ValueError(
        f"{entry.path}: its captions or other fields are damaged as well; give the input that it "
        "came from (--input), or drop the record and build again"
    )


def _readable(cache: Cache, row: int) -> dict[str, Any]:
    """The fields of a record besides its moments, as far as its bytes can be decoded."""
    reader = cache.reader
    try:
        record = wire.decode(reader.raw(row, verify=False)[0], reader.fields)
    except (OSError, ValueError):
        return {}
    fields = {name: value for name, value in record.items() if name not in ("shape", "moments")}
    if "captions" in fields:
        fields["captions"] = tuple(fields["captions"])
    if "flow" in fields:  # its float32 in as few digits as it takes: what somebody wrote
        fields["flow"] = float(str(np.float32(fields["flow"])))
    return fields


def _record(cache: Cache, case: Case, outcome: Decoded | WorkError, remedy: Remedy) -> Record:
    if isinstance(outcome, WorkError):
        raise ValueError(str(outcome))
    if outcome.content != case.entry.content:
        raise ValueError("the file was edited; drop the record, and build again")
    moments = remedy.encode(np.stack(outcome.clips))[0]
    shape = remedy.latents.shape(case.entry.view)
    if moments.shape != shape:
        raise ValueError(f"the autoencoder gave moments {moments.shape}, {shape} are wanted")
    if problem := encoding.flaw(moments):
        raise problem
    fields = {**case.fields, **({"flow": outcome.flows[0]} if case.scored else {})}
    return {
        "shape": list(shape),
        "moments": np.ascontiguousarray(moments, dtype="<f2").tobytes(),
        **{name: fields[name] for name in cache.reader.fields if name in fields},
    }


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


def _put_in_place(
    path: str, aside: str, places: Mapping[int, int], lost: Sequence[int], entries: Any
) -> None:
    if not places and not lost:
        return
    reads: dict[int, Callable[[], Record]] = {}
    if places:
        reader = open_reader(aside)
        reads = {row: functools.partial(reader.__getitem__, at) for row, at in places.items()}
    prune(path, set(lost), entries, mended=reads)
