# SPDX-License-Identifier: Apache-2.0
"""Writes record folders; a process killed at any moment loses only the record in hand.

A record's bytes go to the shard first, its checksum to the file of checksums, then its line to the
text index: a line that is there speaks of a record and a checksum that are there. METADATA appears,
whole, when the writer closes.
"""

from __future__ import annotations

import contextlib
import io
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffnext.data.records import index as indexing
from diffnext.data.records import wire
from diffnext.data.records.base import Buffer
from diffnext.data.records.checks import CHECK, checksum
from diffnext.data.records.files import write_all
from diffnext.data.records.folder_reader import FolderReader
from diffnext.data.records.layout import JOURNAL, METADATA, SHARD, index_names, write_json
from diffnext.data.records.lock import FolderLock
from diffnext.data.records.wire_write import encode

DIGITS = 5  # of a shard's number; names must sort as the numbers do
EARLY = ("shape", "moments")  # stored first, where readers find them without the rest


def in_order(fields: Mapping[str, wire.FeatureType]) -> dict[str, wire.FeatureType]:
    """The fields as a record here stores them, one after another."""
    order = [name for name in EARLY if name in fields]
    return {name: fields[name] for name in [*order, *fields]}


class FolderWriter:
    """Adds records to a folder.

    Args:
        path: the folder; made if it is not there.
        fields: name -> type: bytes, string, int64, float32, a list [type] or a dict of types.
        shard_bytes: a new shard is begun before one grows beyond this size.
        max_examples: a new shard is begun after so many records.
        append: go on with a folder of the same fields, in a new shard; what an unfinished writer
            left torn is cut off first. Without it the folder must hold no records.
        checksums: keep one of each record.
        lock: a lock on the folder that the caller holds; without one, the writer takes its own
            until it is closed or abandoned.

    Raises:
        ValueError: unknown types, a folder with records or with other fields, or one that somebody
            else is writing to.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fields: Mapping[str, Any],
        *,
        shard_bytes: int = 1 << 30,
        max_examples: int | None = None,
        append: bool = False,
        checksums: bool = True,
        lock: FolderLock | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.fields = wire.feature_types(fields)
        self._types = in_order(self.fields)
        self.shard_bytes = shard_bytes
        self.max_examples = max_examples
        self.checksums = checksums
        self._closed = False
        self._open: dict[str, io.FileIO] = {}  # the files of the open shard, by the end of the name
        self._ends: dict[str, int] = {}  # bytes in each
        # (n, 3) offsets, sizes and checksums of the shards that are closed
        self._shards: list[np.ndarray] = []
        self._rows = array("Q")  # the same, flat, of the open one
        self._shapes: dict[tuple[int, ...], int] | None = {} if "shape" in self.fields else None
        self._shape_ids = array("H")
        with contextlib.ExitStack() as held:
            if lock is None:
                held.enter_context(FolderLock(self.path))
            self._number = self._next_number()
            self._begin(append)
            self._held = held.pop_all()

    def write(self, record: Mapping[str, Any]) -> None:
        """Store one record; it survives a killed process when this returns.

        Raises:
            ValueError: fields are missing or unknown, or a value does not fit its type.
            RuntimeError: the writer is closed.
            OSError: the disk is full or failed; the shard is cut back to the record before.
        """
        pieces = encode(record, self._types)
        total = checksum(pieces) if self.checksums else 0
        self._store(pieces, total, record.get("shape", ()))

    def copy(self, data: Buffer, total: int, shape: Sequence[int]) -> None:
        """Store a record as another folder of the same fields has it; see `FolderReader.raw`.

        Args:
            data: its bytes.
            total: their checksum; 0: it has none, and gets one.
            shape: what it says of its shape; () if it says nothing.

        Raises:
            RuntimeError, OSError: as `write`.
        """
        if self.checksums:
            total = total or checksum([data])
        self._store([data], total if self.checksums else 0, shape)

    def _store(self, pieces: Sequence[Buffer], total: int, shape: Sequence[int]) -> None:
        if self._closed:
            raise RuntimeError(f"the writer of {self.path} is closed")
        size = sum(len(piece) for piece in pieces)
        if not self._open or self._shard_is_full(size):
            self._new_shard()
        offset = self._ends[".data"]
        self._append(
            {
                ".data": pieces,
                CHECK: [total.to_bytes(8, "little")],
                ".index": [b"%d %d\n" % (offset, size)],
            }
        )
        self._rows.extend((offset, size, total))
        if self._shapes is not None:
            sides = tuple(map(int, shape))
            self._shape_ids.append(self._shapes.setdefault(sides, len(self._shapes)))

    def close(self) -> None:
        """Finish the folder: bring it to the disk and write METADATA. Again: nothing."""
        if self._closed:
            return
        self._closed = True
        with self._held:
            self._close_shard()
            content = {"entries": len(self), "features": self.fields, "version": 1}
            write_json(os.path.join(self.path, METADATA), content)
            self._save_index()
            os.unlink(os.path.join(self.path, JOURNAL))

    def abandon(self) -> None:
        """Leave the folder unfinished, as a killed process would: readable, to be gone on with."""
        self._closed = True
        with self._held:
            self._close_shard()

    def __len__(self) -> int:
        """Records in the folder, those from before included."""
        return sum(map(len, self._shards)) + len(self._rows) // 3

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.abandon()

    # -------------------------------------------------------------------------------- shards

    def _append(self, content: Mapping[str, Sequence[Buffer]]) -> None:
        """Add to the files of the open shard, in this order; to all of them or to none."""
        try:
            for name, stream in self._open.items():
                write_all(stream, content[name])
        except BaseException:
            for name, stream in self._open.items():
                stream.truncate(stream.seek(self._ends[name]))
            raise
        for name in self._open:
            self._ends[name] += sum(map(len, content[name]))

    def _shard_is_full(self, size: int) -> bool:
        used = self._ends[".data"]
        count = len(self._rows) // 3
        return (used > 0 and used + size > self.shard_bytes) or count == self.max_examples

    def _new_shard(self) -> None:
        self._close_shard()
        stem = os.path.join(self.path, str(self._number).zfill(DIGITS))
        if self._number >= 10**DIGITS:
            raise ValueError(f"{self.path} is full at {self._number} shards; raise shard_bytes")
        names = SHARD if self.checksums else (".data", ".index")
        self._open = {name: io.FileIO(stem + name, "x") for name in names}
        self._ends = dict.fromkeys(names, 0)
        self._number += 1

    def _close_shard(self) -> None:
        if not self._open:
            return
        for stream in self._open.values():
            os.fsync(stream.fileno())
            stream.close()
        self._shards.append(np.array(self._rows, np.uint64).reshape(-1, 3))
        self._rows = array("Q")
        self._open = {}

    def _save_index(self) -> None:
        index = indexing.from_shards(self._shards)
        if self._shapes:
            index = index.with_shapes(list(self._shapes), np.asarray(self._shape_ids))
        indexing.save(self.path, index, indexing.text_state(self.path))

    def _next_number(self) -> int:
        """One more than the last shard's; 0 in a folder without records."""
        stems = [name.partition(".") for name in os.listdir(self.path)]
        stems = [stem for stem, _, ending in stems if ending in ("data", "index")]
        odd = [stem for stem in stems if not stem.isdigit() or len(stem) < DIGITS]
        if odd:  # the next one would not come last
            raise ValueError(
                f"{self.path} has shards without a number of {DIGITS} digits, as {odd[0]}; use another "
                "folder"
            )
        return max(map(int, stems), default=-1) + 1

    # ----------------------------------------------------------------------- going on with a folder

    def _begin(self, append: bool) -> None:
        if self._number or os.path.exists(os.path.join(self.path, METADATA)):
            self._take_over(append)
        write_json(os.path.join(self.path, JOURNAL), {"features": self.fields})
        Path(self.path, METADATA).unlink(missing_ok=True)

    def _take_over(self, append: bool) -> None:
        if not append:
            raise ValueError(f"{self.path} holds records already; pass append=True to add to them")
        if not index_names(self.path) and not os.path.exists(os.path.join(self.path, METADATA)):
            return  # killed before its first record
        reader = FolderReader(self.path)
        if dict(reader.fields) != self.fields:
            raise ValueError(f"{self.path} has the fields {dict(reader.fields)}, not {self.fields}")
        index = reader.index
        reader.close()
        sums = np.zeros(len(index), np.uint64) if index.sums is None else index.sums
        rows = np.column_stack([index.offset.astype(np.uint64), index.size.astype(np.uint64), sums])
        self._shards = [rows[a:b] for a, b in zip(index.first[:-1], index.first[1:], strict=True)]
        for name, kept in zip(index_names(self.path), self._shards, strict=True):
            _cut_torn(os.path.join(self.path, name), kept)
        self._take_over_shapes(index)

    def _take_over_shapes(self, index: indexing.Index) -> None:
        if index.shapes is None and len(index):
            self._shapes = None  # of a foreign folder; its next reader finds them
        elif index.shapes is not None:
            self._shapes = {shape: i for i, shape in enumerate(index.shapes)}
            ids = np.zeros(len(index), np.uint16) if index.order is None else index.shape_ids()
            self._shape_ids = array("H", ids.tobytes())


def _cut_torn(index_file: str, kept: np.ndarray) -> None:
    """Shorten a text index to its complete records, the only ones that METADATA will count."""
    with open(index_file, "rb") as stream:
        lines = stream.readlines()
    if len(lines) > len(kept):
        os.truncate(index_file, sum(map(len, lines[: len(kept)])))
