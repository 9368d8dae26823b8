# SPDX-License-Identifier: Apache-2.0
"""Two caches record by record: what only one has, how they were made, how far their latents drift apart."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffnext.data.cache_identity import differences, upgrade_identity
from diffnext.data.parse import moments
from diffnext.data.progress import Progress, silent
from diffnext.data.records import DamagedRecord
from diffnext.data.tools.algebra import key_array
from diffnext.data.tools.opening import Cache, evenly_spaced
from diffnext.data.tools.summary import MeanStd
from diffnext.utils.moments import split_moments

WORST = 10


@dataclass
class Distance:
    """How far values are apart, over all pairs of arrays that are added."""

    count: int = 0
    largest: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, difference: np.ndarray) -> None:
        size = np.abs(difference)
        self.count += size.size
        self.largest = max(self.largest, float(size.max()))
        self.total += float(size.sum(dtype=np.float64))
        self.squares += float(np.square(size).sum(dtype=np.float64))

    def state(self) -> dict[str, float]:
        """max_abs, mean_abs and rms; zeros where nothing was added."""
        count = max(1, self.count)
        rms = math.sqrt(self.squares / count)
        return {"max_abs": self.largest, "mean_abs": self.total / count, "rms": rms}


@dataclass
class Drift:
    """Differences of matched records."""

    compared: int = 0
    equal: int = 0  # with moments that agree bit for bit
    other_shapes: int = 0
    other_fields: int = 0  # with another caption, label, ...
    not_finite: int = 0  # with NaN or infinite moments in one of them, and other ones in the other
    damaged: int = 0
    mean: Distance = field(default_factory=Distance)
    logvar: Distance = field(default_factory=Distance)
    channels: tuple[MeanStd, MeanStd] = field(default_factory=lambda: (MeanStd(), MeanStd()))
    worst: list[tuple[float, int, int]] = field(default_factory=list)  # rms of the means, numbers

    def add(self, row: int, other_row: int, record: Mapping, other: Mapping) -> None:
        """Compare two records."""
        self.compared += 1
        common = (record.keys() & other.keys()) - {"shape", "moments"}
        self.other_fields += any(record[name] != other[name] for name in common)
        if record["shape"] != other["shape"]:
            self.other_shapes += 1
            return
        is_equal = record["moments"] == other["moments"]
        self.equal += is_equal
        ours, theirs = (moments(r).astype(np.float32) for r in (record, other))
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            self.not_finite += not is_equal
            return
        difference = split_moments(theirs - ours)
        self.mean.add(difference[0])
        self.logvar.add(difference[1])
        for channel, values in zip(self.channels, (ours, theirs), strict=True):
            channel.add(split_moments(values)[0])
        rms = float(np.sqrt(np.mean(np.square(difference[0]))))
        heapq.heappush(self.worst, (rms, row, other_row))
        if len(self.worst) > WORST:
            heapq.heappop(self.worst)

    def state(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        names = ("compared", "equal", "other_shapes", "other_fields", "not_finite", "damaged")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found |= {"mean": self.mean.state(), "logvar": self.logvar.state()}
        if self.mean.count:
            ours, theirs = self.channels
            found["of_a"] = {"mean": ours.mean, "std": ours.std}
            found["of_b"] = {"mean": theirs.mean, "std": theirs.std}
        found["worst"] = [
            {"rms": rms, "record_a": row, "record_b": other}
            for rms, row, other in sorted(self.worst, reverse=True)
        ]
        return found


def compare(
    path: str, other: str, *, sample: int | None = 1000, progress: Progress = silent
) -> dict[str, Any]:
    """Compare two caches.

    Records are matched by the keys in their journals, which stand for a medium, its captions and its
    view, whatever encoded it; without journals, by their numbers.

    Args:
        sample: matched records whose latents are compared, evenly spread; None: all.

    Returns:
        records, only_a and only_b (numbers of records), edited (how many of those are of one medium and
        view, but with other content or captions), identity (lines), drift, sources (of the first of
        those numbers and of the worst pairs, by A and B); as JSON can hold it.

    Raises:
        ValueError: caches without journals that have not as many records.
    """
    a, b = Cache(path), Cache(other)
    matched_by = "key" if a.has_journal and b.has_journal else "number"
    if matched_by == "number" and len(a) != len(b):
        raise ValueError(
            f"{path} has {len(a)} records, {other} {len(b)}, and not both have a journal by which "
            "they could be matched"
        )
    if matched_by == "key":
        rows, other_rows, only_a, only_b = match(key_array(a), key_array(b))
    else:
        rows = other_rows = np.arange(len(a))
        only_a = only_b = np.empty(0, np.int64)
    chosen = evenly_spaced(len(rows), sample)
    pairs = [(int(rows[place]), int(other_rows[place])) for place in chosen]
    identities = [upgrade_identity(cache.identity or {})[0] for cache in (a, b)]
    found = drift(a, b, pairs, progress)
    return {
        "records": [len(a), len(b)],
        "matched_by": matched_by,
        "matched": len(rows),
        "only_a": only_a.tolist(),
        "only_b": only_b.tolist(),
        "edited": _edited(a, b, only_a, only_b) if len(only_a) and len(only_b) else 0,
        "identity": [line.strip() for line in differences(*identities, "A", "B")],
        "drift": found.state(),
        "sources": {
            "a": _sources(a, {*only_a[:WORST].tolist(), *(row for _, row, _ in found.worst)}),
            "b": _sources(b, {*only_b[:WORST].tolist(), *(row for *_, row in found.worst)}),
        },
    }


def match(
    keys: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pair equal keys, the first with the first, the second with the second, and so on.

    Returns:
        Numbers of the pairs in both, rising in the first; numbers without a partner in each, rising.
    """
    order, other_order = np.argsort(keys, kind="stable"), np.argsort(others, kind="stable")
    ranked = _rank(keys[order])
    other_ranked = _rank(others[other_order])
    _, at, other_at = np.intersect1d(ranked, other_ranked, assume_unique=True, return_indices=True)
    rows, other_rows = order[at], other_order[other_at]
    rising = np.argsort(rows)
    only = np.setdiff1d(np.arange(len(keys)), rows)
    only_other = np.setdiff1d(np.arange(len(others)), other_rows)
    return rows[rising], other_rows[rising], only, only_other


def drift(
    a: Cache, b: Cache, pairs: Sequence[tuple[int, int]], progress: Progress = silent
) -> Drift:
    """Compare the records of each pair."""
    found = Drift()
    for row, other in progress(pairs, len(pairs), "diff"):
        try:
            found.add(row, other, a.reader[row], b.reader[other])
        except DamagedRecord:
            found.damaged += 1
    return found


def _rank(keys: np.ndarray) -> np.ndarray:
    """Sorted keys, each made unique by how many equal ones stand before it."""
    new = np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]
    start = np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))
    ranked = np.empty(len(keys), [("key", keys.dtype), ("rank", np.int64)])
    ranked["key"], ranked["rank"] = keys, np.arange(len(keys)) - start
    return ranked


def _edited(a: Cache, b: Cache, only_a: np.ndarray, only_b: np.ndarray) -> int:
    """How many media and views both have, among the records that only one has."""
    return len(set(_places(a, only_a)) & set(_places(b, only_b)))


def _sources(cache: Cache, rows: Collection[int]) -> dict[int, str]:
    """The media that records were made of, as far as a journal names them."""
    if not cache.has_journal:
        return {}
    last = max(rows, default=-1)
    entries = enumerate(itertools.islice(cache.entries(), last + 1))
    return {row: entry.path for row, entry in entries if row in rows}


def _places(cache: Cache, rows: np.ndarray) -> Iterator[tuple]:
    wanted = set(rows.tolist())
    for row, entry in enumerate(cache.entries()):
        if row in wanted:
            yield entry.path, entry.view
