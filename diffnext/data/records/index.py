# SPDX-License-Identifier: Apache-2.0
"""Where each record lies: parsed from the text index once, then mapped from a binary file.

The binary file is a copy. It is used only while names, sizes and times of the text files are those
it was made from, and it is left out where the folder cannot be written.
"""

from __future__ import annotations

import contextlib
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from diffnext.data.records.base import RecordError
from diffnext.data.records.files import write_atomic

SIDECAR = "diffnext.index.bin"  # codewithgpu opens every file whose name ends with ".index"
MAGIC = b"diffnext index 1\n"
ALIGN = 64


@dataclass(frozen=True)
class Index:
    """Positions of N records: 12 bytes a record, and 2 more when the shapes differ."""

    first: np.ndarray  # (shards + 1,) int64: number of the first record of each shard
    offset: np.ndarray  # (N,) int64, bytes in its shard
    size: np.ndarray  # (N,) uint32, bytes
    shapes: tuple[tuple[int, ...], ...] | None = None  # different ones, sorted; None: unknown
    shape_id: np.ndarray | None = None  # (N,) uint16 into `shapes`; None: all have the first

    def __len__(self) -> int:
        return len(self.offset)

    def locate(self, record: int) -> tuple[int, int, int]:
        """Shard, offset and size of a record."""
        shard = bisect_right(self._firsts, record) - 1
        return shard, int(self.offset[record]), int(self.size[record])

    @cached_property
    def _firsts(self) -> list[int]:
        """`first` as a list, in which one number is found faster."""
        return self.first.tolist()

    def with_shapes(self, shapes: Sequence[tuple[int, ...]], shape_id: np.ndarray) -> Index:
        """The same with the shape of each record; ids are changed so that `shapes` is sorted."""
        if len(shapes) > np.iinfo(np.uint16).max:
            raise RecordError(
                f"{len(shapes)} different shapes in one folder, at most 65535 are handled"
            )
        order = sorted(range(len(shapes)), key=lambda i: shapes[i])
        ranks = np.empty(len(order), np.uint16)
        ranks[order] = np.arange(len(order), dtype=np.uint16)
        ids = ranks[shape_id] if len(order) > 1 else None
        return replace(self, shapes=tuple(shapes[i] for i in order), shape_id=ids)


def from_shards(shards: Sequence[np.ndarray]) -> Index:
    """Make an index from the (n, 2) offsets and sizes of each shard."""
    first = np.zeros(len(shards) + 1, np.int64)
    first[1:] = np.cumsum([len(shard) for shard in shards])
    rows = np.concatenate(shards) if shards else np.empty((0, 2), np.int64)
    return Index(first, np.ascontiguousarray(rows[:, 0]), rows[:, 1].astype(np.uint32))


def parse_text(path: str, data_bytes: int, *, recover: bool) -> tuple[np.ndarray, int]:
    """Parse the lines "offset size" of a text index.

    Args:
        path: the file.
        data_bytes: size of the shard that it describes.
        recover: the writer did not finish: leave out a torn last line, and records that lack bytes.

    Returns:
        (n, 2) int64, and how many records were left out.

    Raises:
        RecordError: a line is not two numbers, records overlap, or the shard is too short.
    """
    with open(path, "rb") as stream:
        text = stream.read()
    dropped = 0
    if recover and text and not text.endswith(b"\n"):
        text, dropped = text[: text.rfind(b"\n") + 1], 1
    rows = _numbers(text, path)
    ends = rows[:, 0] + rows[:, 1]
    if recover:
        whole = int(np.searchsorted(np.maximum.accumulate(ends), data_bytes, "right"))
        dropped += len(rows) - whole
        rows, ends = rows[:whole], ends[:whole]
    _check_rows(rows, ends, path, data_bytes)
    return rows, dropped


def _numbers(text: bytes, path: str) -> np.ndarray:
    lines = text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
    if text.translate(None, b"0123456789 \r\n"):
        raise _bad_line(text, path)
    values = np.fromstring(text, np.int64, sep=" ") if text.strip() else np.empty(0, np.int64)
    if len(values) != 2 * lines:
        raise _bad_line(text, path)
    return values.reshape(-1, 2)


def _bad_line(text: bytes, path: str) -> RecordError:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if len(words) != 2 or not all(word.isdigit() for word in words):
            return RecordError(f"{path} line {number} is {line!r}, wanted 'offset size'")
    return RecordError(f"{path} is not lines of 'offset size'")


def _check_rows(rows: np.ndarray, ends: np.ndarray, path: str, data_bytes: int) -> None:
    data = path.removesuffix(".index") + ".data"
    overlap = np.flatnonzero(rows[1:, 0] < ends[:-1])
    if len(overlap):
        i = int(overlap[0]) + 1
        raise RecordError(
            f"{path} line {i + 1} puts record {i} at byte {rows[i, 0]}, but record {i - 1} ends at "
            f"{ends[i - 1]}: the index is damaged"
        )
    beyond = np.flatnonzero(ends > data_bytes)
    if len(beyond):
        i = int(beyond[0])
        raise RecordError(
            f"{data} has {data_bytes} bytes, but its record {i} ends at byte {ends[i]} by {path} "
            f"line {i + 1}: the shard is truncated ({len(rows) - i} records of it cannot be read)"
        )
    if len(rows) and int(rows[:, 1].max()) > np.iinfo(np.uint32).max:
        raise RecordError(
            f"{path} has a record of {rows[:, 1].max()} bytes; the format ends at 2 GiB"
        )


# ------------------------------------------------------------------------------- the binary copy


def text_state(path: str, names: Sequence[str]) -> list[list]:
    """Name, size and time of change (ns) of each text index: what a binary copy is valid for."""
    stats = [os.stat(os.path.join(path, name)) for name in names]
    return [[name, s.st_size, s.st_mtime_ns] for name, s in zip(names, stats, strict=True)]


def save(path: str, index: Index, state: list[list]) -> None:
    """Write the binary copy, if the folder can be written."""
    arrays = [index.first, index.offset, index.size]
    arrays += [index.shape_id] if index.shape_id is not None else []
    shapes = [list(shape) for shape in index.shapes] if index.shapes is not None else None
    head = {"state": state, "shapes": shapes, "arrays": [[a.dtype.str, len(a)] for a in arrays]}
    text = MAGIC + json.dumps(head).encode() + b"\n"
    pieces = [text.ljust(_aligned(len(text)))]
    for array in arrays:
        pieces += [memoryview(array).cast("B") if len(array) else b"", bytes(-array.nbytes % ALIGN)]
    with contextlib.suppress(OSError):
        write_atomic(os.path.join(path, SIDECAR), *pieces)


def load(path: str, state: list[list]) -> Index | None:
    """Map the binary copy; None if there is none for this state of the text files, or a wrong one."""
    file = os.path.join(path, SIDECAR)
    try:
        with open(file, "rb") as stream:
            if stream.readline() != MAGIC:
                return None
            head = json.loads(stream.readline())
            start = stream.tell()
    except (OSError, ValueError):
        return None
    if head["state"] != state:
        return None
    arrays = _map_arrays(file, head["arrays"], _aligned(start))
    if arrays is None:
        return None
    shapes = tuple(tuple(shape) for shape in head["shapes"]) if head["shapes"] is not None else None
    index = Index(*arrays[:3], shapes=shapes, shape_id=arrays[3] if len(arrays) > 3 else None)
    return index if _is_whole(index, len(state)) else None


def _is_whole(index: Index, shards: int) -> bool:
    """Whether the arrays speak of so many shards, and all of the same records."""
    first = index.first
    counts = {len(index.offset), len(index.size)}
    if index.shape_id is not None:
        counts.add(len(index.shape_id))
    if len(first) != shards + 1 or first[0] != 0 or counts != {int(first[-1])}:
        return False
    return bool(np.all(first[1:] >= first[:-1]))


def _map_arrays(file: str, specs: list[list], start: int) -> list[np.ndarray] | None:
    arrays = []
    for dtype, count in specs:
        nbytes = np.dtype(dtype).itemsize * count
        if start + nbytes > os.path.getsize(file):
            return None
        mapped = np.memmap(file, dtype, "r", start, (count,)) if count else np.empty(0, dtype)
        arrays.append(np.asarray(mapped))
        start += _aligned(nbytes)
    return arrays


def _aligned(size: int) -> int:
    return size + -size % ALIGN
