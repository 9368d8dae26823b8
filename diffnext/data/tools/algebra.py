# SPDX-License-Identifier: Apache-2.0
"""New caches of the records of others: some of them, those of several, or parts by chance.

Nothing is encoded or decoded: the bytes of a record and its checksum are copied as they are, after a
comparison, and its line of the journal goes along. A cache appears when it is complete; see `draft`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from diffnext.data.cache_identity import (
    Defaults,
    comparable,
    differences,
    no_defaults,
    upgrade_identity,
)
from diffnext.data.journal import write_line
from diffnext.data.progress import Progress, silent
from diffnext.data.records import write_identity
from diffnext.data.records.folder_writer import FolderWriter
from diffnext.data.records.layout import SAMPLES
from diffnext.data.records.wire import decode
from diffnext.data.tools.conditions import OF_JOURNAL, all_hold, parse_condition
from diffnext.data.tools.draft import draft
from diffnext.data.tools.lineage import derived
from diffnext.data.tools.opening import Cache


def filter_cache(
    path: str, output: str, where: Sequence[str], *, progress: Progress = silent
) -> tuple[int, int]:
    """Make a cache of the records that fulfil all conditions.

    Args:
        where: conditions; see `conditions`.

    Returns:
        How many records it has, and how many `path` has.

    Raises:
        ValueError: no condition, one that cannot be read, no record fulfils them, `output` exists, or
            a record is damaged.
    """
    cache = Cache(path)
    conditions = [parse_condition(text, cache.reader.fields) for text in where]
    names = {condition.name for condition in conditions}
    asked = sorted(names & (set(OF_JOURNAL) - set(cache.reader.fields)))
    if asked and not cache.has_journal:
        raise ValueError(f"{path} has no journal, which alone knows {' and '.join(asked)}")
    with draft(output) as folder:
        with Copy(folder, [cache], "filter", {"where": list(where)}) as copy:
            rows = progress(range(len(cache)), len(cache), "filter")
            for row, entry in zip(rows, entries_or_none(cache), strict=True):
                if all_hold(conditions, _values(cache, row, entry, names, copy.shape(cache, row))):
                    copy.add(cache, row, entry)
        if not copy.count:
            raise ValueError(f"none of {len(cache)} records of {path} fulfils {list(where)}")
    return copy.count, len(cache)


def merge_caches(
    paths: Sequence[str],
    output: str,
    *,
    vae_defaults: Defaults = no_defaults,
    progress: Progress = silent,
) -> tuple[int, int]:
    """Make a cache of the records of several, in their order.

    A record whose key an earlier cache has is left out: it is the same medium, cut and captioned alike.

    Args:
        vae_defaults: what an autoencoder's class, by name, has for settings that are left out.

    Returns:
        How many records it has, and how many were left out.

    Raises:
        ValueError: identities or fields differ, `output` exists, or a record is damaged.
    """
    caches = [Cache(path) for path in paths]
    for cache in caches[1:]:
        _check_same(caches[0], cache, vae_defaults)
    told = all(cache.has_journal for cache in caches)
    double = repeated(caches) if told else np.zeros(sum(map(len, caches)), bool)
    options = {"duplicates": int(double.sum())}
    rows = (
        (cache, row, entry)
        for cache in caches
        for row, entry in enumerate(entries_or_none(cache) if told else _no_entries(cache))
    )
    with draft(output) as folder, Copy(folder, caches, "merge", options) as copy:
        for left_out, row in zip(double, progress(rows, len(double), "merge"), strict=True):
            if not left_out:
                copy.add(*row)
    return copy.count, options["duplicates"]


def split_cache(
    path: str,
    outputs: Sequence[str],
    shares: Sequence[float],
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> list[int]:
    """Make a cache of each share of the records, drawn by chance.

    All views of a medium come into the same one, so that what is held out was not seen. Records of
    equal content are one medium; without a journal, each record is taken for a medium of its own.

    Args:
        shares: one for each output; they sum to 1.

    Returns:
        How many records each has.

    Raises:
        ValueError: shares that are none, one that gets no record, or an output that exists.
    """
    if len(outputs) != len(shares) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares {list(shares)} for {list(outputs)}: one above 0 each, in all 1")
    cache = Cache(path)
    places = _draw(cache, shares, seed)
    if missing := [outputs[i] for i in range(len(outputs)) if not np.any(places == i)]:
        raise ValueError(f"{missing[0]} would get none of {len(cache)} records")
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(draft(output)) for output in outputs]
        copies = []  # closed, all of them, before the first gets its name
        for number, folder in enumerate(folders):
            options = {"shares": list(shares), "seed": seed, "part": number}
            copies.append(stack.enter_context(Copy(folder, [cache], "split", options)))
        rows = progress(range(len(cache)), len(cache), "split")
        for row, entry in zip(rows, entries_or_none(cache), strict=True):
            copies[places[row]].add(cache, row, entry)
    return [copy.count for copy in copies]


class Copy:
    """A cache in the making, of records of others.

    Args:
        folder: where it is made.
        caches: whose records it may have; all of the same fields and identity.
        how: what makes it, and with which options; for the lineage.
    """

    def __init__(
        self, folder: str, caches: Sequence[Cache], how: str, options: dict[str, Any]
    ) -> None:
        write_identity(folder, derived(caches, how, options))
        self.count = 0
        self._writer = FolderWriter(folder, caches[0].reader.fields)
        self._journal = None
        if all(cache.has_journal for cache in caches):
            self._journal = open(os.path.join(folder, SAMPLES), "w", encoding="utf-8")
        self._shapes = {id(cache): _shape_table(cache) for cache in caches}

    def add(self, cache: Cache, row: int, entry: Any) -> None:
        """Copy a record, and its line of the journal.

        Raises:
            DamagedRecord: it is not as it was written.
        """
        self._writer.copy(*cache.reader.raw(row), self.shape(cache, row))
        if self._journal is not None:
            write_line(self._journal, entry)
        self.count += 1

    def shape(self, cache: Cache, row: int) -> tuple[int, ...]:
        """The shape of a record; () if records do not say theirs."""
        shapes, ids = self._shapes[id(cache)]
        return shapes[0 if ids is None else ids[row]]

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._journal is not None:
            self._journal.close()
        self._writer.__exit__(*error)


def entries_or_none(cache: Cache) -> Iterable[Any]:
    """The entries of the journal; None for each record where there is none."""
    return cache.entries() if cache.has_journal else _no_entries(cache)


def repeated(caches: Sequence[Cache]) -> np.ndarray:
    """Which records, of all caches one after another, have a key that an earlier cache has; (N,) bool.

    Takes 24 bytes a record.
    """
    keys = [key_array(cache) for cache in caches]
    owner = np.repeat(np.arange(len(caches), dtype=np.int32), [len(key) for key in keys])
    all_keys = np.concatenate(keys)
    _, first, back = np.unique(all_keys, return_index=True, return_inverse=True)
    return owner > owner[first][back]


def key_array(cache: Cache) -> np.ndarray:
    """The first half, 128 bits, of the key of each record: (N,) bytes of 16."""
    keys = (bytes.fromhex(entry.key[:32]) for entry in cache.entries())
    return np.fromiter(keys, "S16", len(cache))


def _no_entries(cache: Cache) -> Iterator[None]:
    return (None for _ in range(len(cache)))


def _shape_table(cache: Cache) -> tuple[list[tuple[int, ...]], np.ndarray | None]:
    if not len(cache) or "shape" not in cache.reader.fields:
        return [()], None
    return cache.reader.shapes()


def _values(
    cache: Cache, row: int, entry: Any, names: set[str], shape: tuple[int, ...]
) -> dict[str, Any]:
    """What a record has for the names that are asked about; it is read only if it must be."""
    values: dict[str, Any] = {"record": row, "shape": "x".join(map(str, shape))}
    if len(shape) in (3, 4):
        values |= {"frames": 1, "height": shape[-2], "width": shape[-1]}
    if len(shape) == 4:
        values["frames"] = shape[1]
    if entry is not None:
        values |= {"source": entry.path, "flip": int(entry.view.flip)}
    fields = cache.reader.fields
    asked = {name: fields[name] for name in names & fields.keys() if name != "shape"}
    return {**values, **decode(cache.reader.raw(row)[0], asked)} if asked else values


def _check_same(first: Cache, other: Cache, vae_defaults: Defaults) -> None:
    if dict(first.reader.fields) != dict(other.reader.fields):
        ours, theirs = dict(first.reader.fields), dict(other.reader.fields)
        raise ValueError(f"{first.path} has the fields {ours}, {other.path} {theirs}")
    made = [upgrade_identity(cache.identity or {})[0] for cache in (first, other)]
    if made[0].get("vae") != made[1].get("vae"):
        made = comparable(*made, vae_defaults)
    if lines := differences(*made, first.path, other.path):
        raise ValueError("these caches were made in different ways:\n" + "\n".join(lines))


def _draw(cache: Cache, shares: Sequence[float], seed: int) -> np.ndarray:
    """(N,) which share each record comes into: media in the order of a hash, cut where they fill up."""
    contents = entries_or_none(cache)
    names = (f"{row}" if e is None else e.content for row, e in enumerate(contents))
    lots = (hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8] for name in names)
    drawn = np.frombuffer(b"".join(lots), ">u8")
    _, group, sizes = np.unique(drawn, return_inverse=True, return_counts=True)
    middle = np.cumsum(sizes) - sizes / 2  # of each medium, in records
    ends = np.cumsum(shares)[:-1] * len(cache)
    return np.searchsorted(ends, middle, "right").astype(np.int16)[group]
