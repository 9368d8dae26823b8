# SPDX-License-Identifier: Apache-2.0
"""Records made again from the media, captions and views that the journal of their cache names.

A record has a checksum, so it can be seen whether it is what it was, bit for bit. It mostly is, with those
of its moments and embeddings kept that are whole, and with frames that are encoded twice in one batch:
batches of two have the last digits of larger ones, with the autoencoders measured here, and one sample
alone does not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffnext.data.decoding import LIMIT_S, Decoded, Order, decode_ahead
from diffnext.data.encoding import Encode, PatientEncoder, flaw
from diffnext.data.journal import Entry, sample_key
from diffnext.data.latents import Latents
from diffnext.data.location import Location
from diffnext.data.progress import Progress, silent
from diffnext.data.prompt_cache import TYPES, WORDS, embed, fields_of, words_of
from diffnext.data.prompt_encoding import EncodeTexts, encode_texts
from diffnext.data.prompt_store import PromptStore
from diffnext.data.records import Record, wire, wire_write
from diffnext.data.records.checks import checksum
from diffnext.data.records.folder_writer import in_order
from diffnext.data.sources import Source
from diffnext.data.tools.finding import locate
from diffnext.data.tools.opening import Cache
from diffnext.data.worker import WorkError

MOST_DAMAGED = 2  # of moments and embeddings of one record, that are looked for


@dataclass(frozen=True)
class Remedy:
    """What makes records again.

    Args:
        load: makes the autoencoder ready; called when there is something to encode.
        latents: sizes of the autoencoder.
        sources: media with their captions, by path, for records whose own captions are damaged.
        load_text: makes the text encoder ready, where prompts are embedded; it is let go of before
            the autoencoder is loaded.
        workers: processes that decode.
        limit_s: seconds that one medium may take.
    """

    load: Callable[[], Encode]
    latents: Latents
    sources: Mapping[str, Source] = field(default_factory=dict)
    load_text: Callable[[], EncodeTexts] | None = None
    workers: int = 1
    limit_s: float = LIMIT_S


@dataclass(frozen=True)
class Case:
    """A damaged record whose source is there and whose fields are known."""

    row: int
    entry: Entry
    fields: Mapping[str, Any]  # with captions as texts
    scored: bool  # whether its motion score must be computed


def remake(
    cache: Cache,
    damaged: Iterable[tuple[int, Entry]],
    remedy: Remedy,
    failed: dict[int, str],
    aside: str,
    progress: Progress = silent,
) -> Iterator[tuple[int, Record]]:
    """Yield records anew, with their numbers; note in `failed` why others could not be made.

    Args:
        aside: folder for embeddings of prompts, which the caller removes.
    """
    cases = list(_cases(cache, damaged, remedy, failed))
    if not cases:
        return
    find = _embedded(cache, [case for case, _ in cases], remedy, aside, progress)
    encode = PatientEncoder(remedy.load())
    decoded = decode_ahead(cases, workers=remedy.workers, limit_s=remedy.limit_s)
    for case, outcome in progress(decoded, len(cases), "repair"):
        try:
            _check_decoded(case, outcome)
            fields = _all_fields(case, outcome, find)
            yield case.row, _record(cache, case, outcome, fields, encode, remedy)
        except (RuntimeError, ValueError) as error:
            failed[case.row] = f"{case.entry.path}: {error}"


# ------------------------------------------------------------------------------ what there is to do


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

    Mostly it is the moments or embeddings that are damaged, as they are nearly all of a record; then
    the fields are read from it.
    """
    if WORDS in cache.reader.fields and remedy.load_text is None:
        raise ValueError(
            f"{entry.path}: its prompts are embedded, and no text encoder was given (--text-model)"
        )
    candidates = list(_readable(cache, row))
    if entry.path in remedy.sources:
        candidates.append(remedy.sources[entry.path].fields())
    computed = "flow" in (cache.identity or {}).get("rules", {})
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


def _readable(cache: Cache, row: int) -> Iterator[dict[str, Any]]:
    """What the fields of a record besides its moments may be, as far as its bytes can be decoded."""
    fields = _decoded(cache, row)
    fields = {name: value for name, value in fields.items() if name not in ("shape", "moments")}
    if "flow" in fields:  # its float32 in as few digits as it takes: what somebody wrote
        fields["flow"] = float(str(np.float32(fields["flow"])))
    if WORDS in fields:
        words = fields.pop(WORDS)
        rest = {name: value for name, value in fields.items() if name not in TYPES}
        for texts in fields_of(words, several="captions" in fields):
            yield {**rest, **texts}
        return
    if "captions" in fields:
        fields["captions"] = tuple(fields["captions"])
    yield fields


def _decoded(cache: Cache, row: int) -> Record:
    """A damaged record as its bytes have it; empty if they cannot be decoded."""
    try:
        return wire.decode(_stored(cache, row), cache.reader.fields)
    except ValueError:
        return {}


def _stored(cache: Cache, row: int) -> bytes:
    """The bytes of a damaged record; none where they cannot be read."""
    try:
        return bytes(cache.reader.raw(row, verify=False)[0])
    except (OSError, ValueError):
        return b""


# ---------------------------------------------------------------------------------- how it is done


def _embedded(
    cache: Cache, cases: Sequence[Case], remedy: Remedy, aside: str, progress: Progress
) -> PromptStore | None:
    """The embeddings of all texts of the cases; None where captions are stored as texts."""
    if WORDS not in cache.reader.fields:
        return None
    store = PromptStore(aside, (cache.identity or {}).get("text_encoder", {}))
    texts = {text for case in cases for text in words_of(case.fields)}
    encode_texts(store, texts, remedy.load_text(), progress=progress)
    return store


def _check_decoded(case: Case, outcome: Decoded | WorkError) -> None:
    if isinstance(outcome, WorkError):
        raise ValueError(str(outcome))
    if outcome.content != case.entry.content:
        raise ValueError("the file was edited; drop the record, and build again")


def _all_fields(case: Case, outcome: Decoded, find: PromptStore | None) -> Mapping[str, Any]:
    """What the record holds besides its moments."""
    fields = {**case.fields, **({"flow": outcome.flows[0]} if case.scored else {})}
    if find is None:
        return fields
    [known] = embed([fields], find)
    if isinstance(known, Exception):
        raise known
    return known


def _record(
    cache: Cache,
    case: Case,
    outcome: Decoded,
    fields: Mapping[str, Any],
    encode: PatientEncoder,
    remedy: Remedy,
) -> Record:
    """The record as it was, if that can be put together; else all of it anew."""
    stored, wanted = _stored(cache, case.row), cache.reader.index.locate(case.row)[-1]
    shape, types = remedy.latents.shape(case.entry.view), in_order(cache.reader.fields)
    record: Record = {}
    for moments in _ways(outcome.clips[0], shape, encode):
        values = {**fields, "shape": list(shape), "moments": moments}
        record = {name: values[name] for name in types if name in values}
        for data in _mixtures(b"".join(wire_write.encode(record, types)), stored, types):
            if checksum([data]) == wanted and not flaw(_moments(data, types)):
                return wire.decode(data, types)
    return record


def _moments(data: bytes, types: Mapping[str, wire.FeatureType]) -> np.ndarray:
    """Those of a record, flat."""
    return np.frombuffer(wire.decode(data, types)["moments"], "<f2")


def _ways(clip: np.ndarray, shape: tuple[int, ...], encode: PatientEncoder) -> Iterator[bytes]:
    """Moments: none yet, as those that are stored may be whole; as one of two samples; and one alone."""
    yield bytes(2 * math.prod(shape))
    for copies in (2, 1):
        moments = encode([clip] * copies)[0]
        if isinstance(moments, Exception):
            raise moments
        if moments.shape != shape:
            raise ValueError(f"the autoencoder gave moments {moments.shape}, {shape} are wanted")
        if problem := flaw(moments):
            raise problem
        yield np.ascontiguousarray(moments, dtype="<f2").tobytes()


def _mixtures(made: bytes, stored: bytes, types: Mapping[str, wire.FeatureType]) -> Iterator[bytes]:
    """The bytes of a record made anew with moments and embeddings as they are stored, but for a few.

    These parts are nearly all of a record, and may have other last digits each time they are made.
    """
    if len(stored) != len(made):
        return
    parts = list(_parts(made, types))
    for count in range(min(len(parts), MOST_DAMAGED) + 1):
        for anew in itertools.combinations(parts, count):
            mixed = bytearray(made)
            for part in parts:
                if part not in anew:
                    mixed[part[0] : part[1]] = stored[part[0] : part[1]]
            yield bytes(mixed)


def _parts(data: bytes, types: Mapping[str, wire.FeatureType]) -> Iterator[tuple[int, int]]:
    """Where the values of the type BYTES begin and end."""
    begin = np.frombuffer(data, np.uint8).ctypes.data
    values = [wire.decode(data, types)]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):
            values += value
        elif isinstance(value, memoryview) and len(value):
            start = np.frombuffer(value, np.uint8).ctypes.data - begin
            yield start, start + len(value)
