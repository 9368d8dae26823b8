# SPDX-License-Identifier: Apache-2.0
"""Whether a cache is as it was written: every record, its index, METADATA, journal and identity."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffnext.data.cache_folder import check_indexes, check_lines
from diffnext.data.journal import Entry
from diffnext.data.parse import moments
from diffnext.data.progress import Progress, silent
from diffnext.data.prompt_cache import WORDS
from diffnext.data.records import DamagedRecord, Record, RecordError, checks, index_text
from diffnext.data.records import index as indexing
from diffnext.data.records.files import BEYOND
from diffnext.data.records.layout import JOURNAL as WRITING
from diffnext.data.remote.store import RemoteError
from diffnext.data.tools.opening import Cache

EXPONENT = np.uint16(0x7C00)  # of float16; all ones: infinite or NaN


@dataclass(frozen=True)
class Problem:
    """What is wrong with a cache.

    Args:
        part: "record", "index", "checksums", "METADATA", "journal" or "identity".
        what: in words; of a record with its shard, number and source.
        record: its number; -1: it is not about one.
    """

    part: str
    what: str
    record: int = -1


@dataclass
class Report:
    """What a check has found."""

    records: int = 0
    checked: int = 0  # of them with a checksum
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be checked

    @property
    def damaged(self) -> list[int]:
        """Numbers of the damaged records, rising."""
        return sorted({p.record for p in self.problems if p.part == "record"})


def check(path: str, *, progress: Progress = silent) -> Report:
    """Read a whole cache and list what is wrong with it.

    A record is damaged if its bytes differ from its checksum, cannot be decoded, are not there, or
    hold values that are not finite. Records without a checksum are decoded.

    Raises:
        FileNotFoundError: there is no such folder.
        RemoteError: it is behind a URL, and cannot be had.
    """
    try:
        cache = Cache(path, patient=True)
    except RecordError as error:
        return Report(problems=[Problem("index", str(error))])
    report = Report(len(cache), cache.reader.checked)
    if not cache.finished:
        report.problems.append(Problem("METADATA", f"it is missing: {without_metadata(cache)}"))
    if report.checked < report.records:
        report.notes.append(f"{report.records - report.checked} records have no checksum")
    report.problems += check_index(cache) or check_sums(cache)
    report.problems += check_identity(cache, report.notes)
    report.problems += check_journal(cache, report.notes)
    report.problems += check_records(cache, progress)
    cache.close()
    return report


def without_metadata(cache: Cache) -> str:
    """What became of a folder without METADATA, and what to do."""
    if cache.identity is None or not cache.has_journal:
        return "its writer did not finish, or it was lost; what is complete can be read"
    try:
        check_indexes(cache.path)
        if not os.path.exists(cache.file(WRITING)):
            check_lines(cache.path, len(cache))
    except ValueError as error:
        return f"it was lost, and more was; builds refuse the folder: {error}"
    return "a build was interrupted, the same command goes on"


def check_records(cache: Cache, progress: Progress = silent) -> Iterator[Problem]:
    """Read all records in the order of their bytes; yield what is damaged."""
    for row in progress(range(len(cache)), len(cache), "verify"):
        try:
            reason = flaw(cache.reader[row])
        except RemoteError:
            raise  # it may be there, and sound
        except (DamagedRecord, OSError) as error:  # a failing disk is damage as well
            yield Problem("record", str(error), row)
            continue
        if reason:
            yield Problem("record", f"{cache.reader.describe(row)}: {reason}", row)


def flaw(record: Record) -> str:
    """Why the moments of a record cannot be trained on; "" if they can, or it has none."""
    if "moments" not in record or "shape" not in record:
        return ""
    try:
        values = moments(record)
    except ValueError as error:
        return str(error)
    if np.any(values.view(np.uint16) & EXPONENT == EXPONENT):
        return "its moments have NaN or infinite values"
    return ""


def check_index(cache: Cache) -> list[Problem]:
    """Compare the index that readers map with the text that it was made from."""
    if not indexing.is_sound(cache.reader.folder):
        return [
            Problem("index", f"{indexing.SIDECAR} has other bytes than were written; remove it")
        ]
    problems = []
    index = cache.reader.index
    for number, (name, *_) in enumerate(indexing.text_state(cache.reader.folder)):
        rows, _ = index_text.parse(cache.file(name), BEYOND, recover=not cache.finished)
        part = slice(int(index.first[number]), int(index.first[number + 1]))
        mapped = np.column_stack([index.offset[part], index.size[part]])
        if not np.array_equal(rows, mapped):
            what = f"{indexing.SIDECAR} does not say what {name} says; remove it"
            problems.append(Problem("index", what))
    return problems


def check_sums(cache: Cache) -> list[Problem]:
    """Compare the checksums beside the shards with those of the index that readers map."""
    problems, index = [], cache.reader.index
    sums = np.broadcast_to(np.uint64(0), len(index)) if index.sums is None else index.sums
    for number, (name, *_) in enumerate(indexing.text_state(cache.reader.folder)):
        part = sums[int(index.first[number]) : int(index.first[number + 1])]
        file = name.removesuffix(".index") + checks.CHECK
        if os.path.exists(cache.file(file)) and not np.array_equal(
            checks.load(cache.file(file), len(part)), part
        ):
            problems.append(Problem("checksums", f"{file} has others than {indexing.SIDECAR}"))
    return problems


def check_identity(cache: Cache, notes: list[str]) -> Iterator[Problem]:
    """Compare what the identity says of the records with them."""
    if cache.identity is None:
        notes.append("no identity: what made it is not known")
        return
    stated = cache.identity.get("fields")
    if stated is not None and "text_encoder" in cache.identity:
        stated = [*stated, WORDS]
    found = [name for name in cache.reader.fields if name not in ("shape", "moments")]
    if stated is not None and sorted(stated) != sorted(found):
        yield Problem("identity", f"it states the fields {stated}, the records have {found}")


def check_journal(cache: Cache, notes: list[str]) -> Iterator[Problem]:
    """Compare the journal with the records: their number, and the size of each."""
    if not cache.has_journal:
        notes.append("no journal: what records were made of is not known, none can be repaired")
        return
    strides, shapes, ids = (cache.identity or {}).get("strides"), [], None
    try:
        shapes, ids = cache.reader.shapes() if len(cache) else ([], None)
    except DamagedRecord:
        notes.append(
            "a record whose shape is damaged keeps those in the journal from being compared"
        )
    try:
        for row, entry in enumerate(cache.entries()):
            if strides is None or not shapes:
                continue
            shape, wanted = shapes[0 if ids is None else ids[row]], latent_size(entry, strides)
            if _size(shape) != wanted:
                yield Problem(
                    "journal",
                    f"line {row + 1} is of {entry.view}, latents {wanted}; the record has {shape}",
                    row,
                )
    except ValueError as error:
        yield Problem("journal", str(error))


def latent_size(entry: Entry, strides: Mapping[str, Any]) -> tuple[int, ...]:
    """Frames, height and width of the latents of a view."""
    frames = (entry.view.num_frames - 1) // strides["time"] + 1
    return frames, entry.view.height // strides["space"], entry.view.width // strides["space"]


def _size(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape[1:]) if len(shape) == 3 else shape[1:]
