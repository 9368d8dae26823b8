# SPDX-License-Identifier: Apache-2.0
"""Where each record lies: arrays that are read from the text index once, then mapped from a file.

The file is a copy. It is used only while names, sizes and times of the text indexes are those it was
made from, and it is left out where the folder cannot be written. It has a checksum. One of up to a
million records is compared with it when it is opened, in 3 ms. Of a larger one, opening touches no
page of an array that has an entry a record: a hundred million would take half a second to compare
from memory, and many from a disk. There, a wrong byte shows when the record it speaks of is read.
"""

from __future__ import annotations

import contextlib
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from diffnext.data.records.base import RecordError
from diffnext.data.records.checks import CHECK, checksum
from diffnext.utils.files import write_bytes

SIDECAR = "diffnext.index.bin"  # codewithgpu opens every file whose name ends with ".index"
MAGIC = b"diffnext index 2\n"
ALIGN = 64
SMALL = 32 << 20  # bytes of a file that is compared with its checksum when it is opened
DTYPES = {  # of the arrays; those of another file are not believed
    "first": "<i8",
    "ends": "<i8",
    "offset": "<i8",
    "size": "<u4",
    "sums": "<u8",
    "order": "<u4",
}

Row = tuple[int, int, int, int]  # shard, offset and size in bytes, checksum (0: none)


@dataclass(frozen=True)
class Index:
    """Positions of N records in S shards: at most 24 bytes a record, mapped as a rule.

    12 bytes say where a record lies, 8 are its checksum if there is one, 4 sort it by shape if there
    are several.
    """

    first: np.ndarray  # (S + 1,) int64: number of the first record of each shard
    ends: np.ndarray  # (S,) int64: bytes that the shard has at least
    offset: np.ndarray  # (N,) int64, bytes in its shard
    size: np.ndarray  # (N,) uint32, bytes
    sums: np.ndarray | None = None  # (N,) uint64, 0: none; None: no record has one
    shapes: tuple[tuple[int, ...], ...] | None = None  # different ones, sorted; None: unknown
    counts: tuple[int, ...] = ()  # records of each shape
    order: np.ndarray | None = None  # (N,) uint32: numbers by shape, then rising; None: one shape

    def __len__(self) -> int:
        return len(self.offset)

    def locate(self, record: int) -> Row:
        """Where a record lies."""
        return self.locate_all([record])[0]

    def locate_all(self, records: Sequence[int]) -> list[Row]:
        """The same for several records."""
        firsts, offset, size, sums = self._tables
        return [(bisect_right(firsts, i) - 1, offset[i], size[i], sums[i]) for i in records]

    @cached_property
    def _tables(self) -> tuple[list[int], memoryview, memoryview, memoryview]:
        """`first`, `offset`, `size` and `sums` in forms that give one number faster than an array."""
        sums = np.broadcast_to(np.uint64(0), len(self)) if self.sums is None else self.sums
        return self.first.tolist(), *map(memoryview, (self.offset, self.size, sums))

    def groups(self) -> list[tuple[tuple[int, ...], np.ndarray | None]]:
        """Each shape with the numbers of its records, rising; None: all records have it."""
        if self.order is None:
            return [(shape, None) for shape in self.shapes]
        ends = list(accumulate(self.counts, initial=0))
        parts = [self.order[a:b] for a, b in pairwise(ends)]
        return list(zip(self.shapes, parts, strict=True))

    def shape_ids(self) -> np.ndarray | None:
        """(N,) uint16 into `shapes`; None: all have the first. Made anew, 2 bytes a record."""
        if self.order is None:
            return None
        ids = np.empty(len(self), np.uint16)
        for number, (_, members) in enumerate(self.groups()):
            ids[members] = number
        return ids

    def with_shapes(self, shapes: Sequence[tuple[int, ...]], ids: np.ndarray) -> Index:
        """The same with the shape of each record, (N,) integers into `shapes`."""
        if len(shapes) > np.iinfo(np.uint16).max:
            raise RecordError(
                f"{len(shapes)} different shapes in one folder, at most 65535 are handled"
            )
        rank = sorted(range(len(shapes)), key=lambda i: shapes[i])
        counts = np.bincount(ids, minlength=len(shapes))
        order = None
        if len(shapes) > 1:
            places = np.empty(len(rank), np.uint16)
            places[rank] = np.arange(len(rank), dtype=np.uint16)
            order = np.argsort(places[ids], kind="stable").astype(np.uint32)
        return replace(
            self,
            shapes=tuple(shapes[i] for i in rank),
            counts=tuple(int(counts[i]) for i in rank),
            order=order,
        )


def from_shards(shards: Sequence[np.ndarray]) -> Index:
    """Make an index from the (n, 3) uint64 offsets, sizes and checksums of each shard."""
    first = np.zeros(len(shards) + 1, np.int64)
    first[1:] = np.cumsum([len(shard) for shard in shards])
    ends = [int(shard[-1, 0] + shard[-1, 1]) if len(shard) else 0 for shard in shards]
    rows = np.concatenate(shards) if shards else np.empty((0, 3), np.uint64)
    return Index(
        first,
        np.array(ends, np.int64),
        rows[:, 0].astype(np.int64),
        rows[:, 1].astype(np.uint32),
        np.ascontiguousarray(rows[:, 2]) if rows[:, 2].any() else None,
    )


# ------------------------------------------------------------------------------- the binary copy


def text_state(path: str) -> list[list]:
    """What a binary copy is valid for: of each text index, in the order that numbers the records,
    name, size, time of change (ns) and whether checksums lie beside it.
    """
    names = set(os.listdir(path))
    state = []
    for name in sorted(name for name in names if name.endswith(".index")):
        stat = os.stat(os.path.join(path, name))
        checked = name.removesuffix(".index") + CHECK in names
        state.append([name, stat.st_size, stat.st_mtime_ns, checked])
    return state


def save(path: str, index: Index, state: list[list]) -> None:
    """Write the binary copy, if the folder can be written."""
    arrays = {name: getattr(index, name) for name in ("first", "ends", "offset", "size")}
    arrays |= {n: getattr(index, n) for n in ("sums", "order") if getattr(index, n) is not None}
    head = {
        "state": state,
        "shapes": index.shapes,
        "counts": index.counts,
        "arrays": [[name, array.dtype.str, len(array)] for name, array in arrays.items()],
    }
    body: list[bytes | memoryview] = []
    for array in arrays.values():
        body += [memoryview(array).cast("B") if len(array) else b"", bytes(-array.nbytes % ALIGN)]
    text = MAGIC + json.dumps({**head, "checksum": _checksum(head, *body)}).encode() + b"\n"
    with contextlib.suppress(OSError):
        write_bytes(os.path.join(path, SIDECAR), text.ljust(_aligned(len(text))), *body)


def _checksum(head: dict, *body: bytes | memoryview) -> str:
    """XXH3 of what a binary copy says, without the checksum itself."""
    said = {key: value for key, value in head.items() if key != "checksum"}
    return f"{checksum([json.dumps(said).encode(), *body]):016x}"


def is_sound(path: str) -> bool:
    """Whether a folder's binary copy has the bytes that were written; older ones do not tell."""
    file = os.path.join(path, SIDECAR)
    if not os.path.exists(file):
        return True
    head, start = _read_head(file)
    return head is not None and _has_checksum(file, head, _aligned(start))


def _has_checksum(file: str, head: dict, start: int) -> bool:
    if "checksum" not in head:
        return True
    size = os.path.getsize(file) - start
    body = np.memmap(file, np.uint8, "r", start) if size > 0 else np.empty(0, np.uint8)
    return head["checksum"] == _checksum(head, memoryview(body))


def load(path: str, state: list[list]) -> Index | None:
    """Map the binary copy; None if there is none for this state of the text files, or a wrong one."""
    file = os.path.join(path, SIDECAR)
    head, start = _read_head(file)
    if head is None or head.get("state") != state:
        return None
    try:
        is_small = os.path.getsize(file) <= SMALL
        if is_small and not _has_checksum(file, head, _aligned(start)):
            return None
        arrays = _map_arrays(file, head["arrays"], _aligned(start))
        shapes = None if head["shapes"] is None else tuple(map(tuple, head["shapes"]))
        index = Index(**arrays, shapes=shapes, counts=tuple(head["counts"]))
        return index if _is_whole(index, len(state)) else None
    except (KeyError, TypeError, ValueError):  # it is damaged, and no more than a help
        return None


def load_any(path: str) -> tuple[dict, Index | None]:
    """What the binary copy says of itself, and the copy, whatever state of the text files it is of.

    It must have a checksum that fits; None for the copy otherwise.
    """
    head, _ = _read_head(os.path.join(path, SIDECAR))
    if head is None or "checksum" not in head or not is_sound(path):
        return {}, None
    return head, load(path, head["state"])


def adopt_copy(path: str) -> None:
    """Make the binary copy valid in a folder that is itself a copy, whose files have other times.

    The text indexes get the times that the binary copy knows, if it knows their names and sizes.
    """
    head, _ = _read_head(os.path.join(path, SIDECAR))
    found = text_state(path)
    with contextlib.suppress(KeyError, TypeError, ValueError):  # damaged: it will not be used
        if head is not None and _without_times(head["state"]) == _without_times(found):
            for name, _, time_ns, _ in head["state"]:
                os.utime(os.path.join(path, name), ns=(time_ns, time_ns))


def _without_times(state: list[list]) -> list[list]:
    return [[name, size, checked] for name, size, _, checked in state]


def _read_head(file: str) -> tuple[dict | None, int]:
    """What a binary copy says of itself, and where this ends; None where there is none."""
    try:
        with open(file, "rb") as stream:
            if stream.readline() == MAGIC:
                head = json.loads(stream.readline())
                return (head if isinstance(head, dict) else None), stream.tell()
    except (OSError, ValueError):
        pass
    return None, 0


def _is_whole(index: Index, shards: int) -> bool:
    """Whether the arrays speak of so many shards, and all of the same records."""
    first, ends = index.first, index.ends
    if len(first) != shards + 1 or len(ends) != shards or first[0] != 0:
        return False
    by_record = (index.offset, index.size, index.sums, index.order)
    counts = {len(array) for array in by_record if array is not None}
    if index.shapes is not None:
        counts.add(sum(index.counts))
    return counts == {int(first[-1])} and bool(np.all(first[1:] >= first[:-1]))


def _map_arrays(file: str, specs: list[list], start: int) -> dict[str, np.ndarray]:
    """Map the arrays that a head names.

    Raises:
        KeyError, TypeError, ValueError: it does not speak of such arrays, or not of this file.
    """
    arrays = {}
    whole = os.path.getsize(file)
    for name, dtype, count in specs:
        nbytes = np.dtype(DTYPES[name]).itemsize * count
        if dtype != DTYPES[name] or not 0 <= nbytes <= whole - start:
            raise ValueError(f"{file}: {name} is {count} times {dtype}")
        mapped = np.memmap(file, dtype, "r", start, (count,)) if count else np.empty(0, dtype)
        arrays[name] = np.asarray(mapped)
        start += _aligned(nbytes)
    return arrays


def _aligned(size: int) -> int:
    return size + -size % ALIGN
