# SPDX-License-Identifier: Apache-2.0
"""Reads folders of records as codewithgpu writes them: METADATA, 00000.data, 00000.index, ...

A folder without METADATA was not finished by its writer; what is complete in it can be read.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffnext.data.records import index as indexing
from diffnext.data.records import wire
from diffnext.data.records.base import Record, RecordError
from diffnext.data.records.files import Files

METADATA = "METADATA"
JOURNAL = "diffnext.journal.json"  # the types of the fields, while a writer is at work
LARGE = 10_000  # records from which reading the text index again costs more than a file beside it
HEADS = 256  # beginnings of records whose decoded fields are kept
PROBE = 256  # bytes; holds the shape of a record and where its moments begin


class FolderReader:
    """Random access to a folder of records.

    Args:
        path: the folder.
        files: gives access to the shards, by folder and names; another one than `Files` may read
            shards that are not in the folder.

    Raises:
        RecordError: METADATA and the index disagree, or a shard is missing, truncated or damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        files: Callable[[str, list[str]], Files] = Files,
    ) -> None:
        self.path = os.fspath(path)
        names = index_names(self.path)
        shards = [name.removesuffix(".index") + ".data" for name in names]
        self._files = files(self.path, shards)
        sizes = self._files.sizes()
        self._state = indexing.text_state(self.path, names)
        metadata = _read_json(os.path.join(self.path, METADATA))
        entries = None if metadata is None else metadata["entries"]
        self.index = self._open_index(names, sizes, entries)
        if metadata is None:
            metadata = {"features": self._recover_fields(), "entries": len(self)}
        self.fields: Mapping[str, wire.FeatureType] = wire.feature_types(metadata["features"])
        if metadata["entries"] != len(self):
            raise RecordError(
                f"{self.path}/METADATA says {metadata['entries']} records, the index files list "
                f"{len(self)}: one was lost or added (remove METADATA to read what is listed)"
            )
        self._payload_at: dict[tuple[str, int], int] = {}
        self._heads: dict[bytes, Record | None] = {}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Record:
        """Decode one record; BYTES are read-only memoryviews.

        Raises:
            IndexError: no such record.
            RecordError: its bytes are damaged.
        """
        return self._decode(index, self._read(index))

    def read_into(
        self, indices: Sequence[int], field: str, outs: Sequence[memoryview]
    ) -> list[Record]:
        """Read the payloads of one BYTES field straight into `outs`; return the other fields.

        Records of one kind mostly agree in where the payload starts, so a single scattered read
        fills its memory; where the guess was wrong, the record is read again and copied. All is
        read before anything is decoded: large copies push code and tables out of the caches.

        Raises:
            RecordError: a payload has another size, or the bytes are damaged.
        """
        pairs = list(zip(indices, outs, strict=True))
        parts = [self._read_guessed(index, field, out) for index, out in pairs]
        records = []
        for (index, out), part in zip(pairs, parts, strict=True):
            record = None if part is None else self._decode_guessed(index, field, len(out), *part)
            records.append(self._read_copied(index, field, out) if record is None else record)
        return records

    def shapes(self) -> tuple[list[tuple[int, ...]], np.ndarray | None]:
        """The different values of the field `shape`, sorted, and which of them each record has.

        A folder written here knows them. Another is read through, and if it is large and can be
        written to, the result is kept beside its records.

        Raises:
            RecordError: the records have no `shape`.
        """
        if self.index.shapes is None:
            self.index = self._scan_shapes()
            if len(self) >= LARGE:
                indexing.save(self.path, self.index, self._state)
        return list(self.index.shapes), self.index.shape_id

    def describe(self, index: int) -> str:
        """File and number of a record, for messages."""
        shard, offset, _ = self.index.locate(index)
        line = index - int(self.index.first[shard])
        file = self._files.paths[shard]
        return f"{file} record {line} (number {index} of the folder, byte {offset})"

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        self._files.close()

    def __reduce__(self) -> tuple[type[FolderReader], tuple[str]]:
        return FolderReader, (self.path,)

    # ------------------------------------------------------------------------------- reading

    def _read(self, index: int) -> bytes:
        shard, offset, size = self._locate(index)
        data = self._files.read(shard, offset, size)
        if len(data) != size:
            raise RecordError(f"{self.describe(index)} has {len(data)} bytes instead of {size}")
        return data

    def _locate(self, index: int) -> tuple[int, int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self.path}, which has {len(self)}")
        return self.index.locate(index)

    def _decode(self, index: int, data: bytes | bytearray) -> Record:
        try:
            return wire.decode(data, self.fields)
        except ValueError as error:
            raise RecordError(f"{self.describe(index)} is damaged: {error}") from error

    def _read_guessed(self, index: int, field: str, out: memoryview) -> tuple[bytes, bytes] | None:
        """Fill `out` and return what lies before and behind it; None if the payload is elsewhere."""
        shard, offset, size = self._locate(index)
        start = self._payload_at.get((field, len(out)))
        if start is None or start + len(out) > size:
            return None
        head, tail = bytearray(start), bytearray(size - start - len(out))
        if self._files.read_into(shard, offset, [head, out, tail]) != size:
            return None
        return bytes(head), bytes(tail)

    def _decode_guessed(
        self, index: int, field: str, size: int, head: bytes, tail: bytes
    ) -> Record | None:
        """The other fields; None if it was not the field's payload that stood between the two."""
        try:
            before = self._decode_head(head, field, size)
            if before is None:
                return None
            behind = wire.decode_present(tail, 0, len(tail), self.fields)
        except ValueError as error:
            raise RecordError(f"{self.describe(index)} is damaged: {error}") from error
        record = wire.complete({**before, **behind}, self.fields)
        del record[field]
        return record

    def _decode_head(self, head: bytes, field: str, size: int) -> Record | None:
        """The fields before a payload, which are the same in most records: a shape, as a rule."""
        if head not in self._heads:
            if len(self._heads) >= HEADS:
                self._heads = {}
            end = wire.payload_before(head, field, size)
            known = None if end is None else wire.decode_present(head, 0, end, self.fields)
            self._heads[head] = known
            return known
        return self._heads[head]

    def _read_copied(self, index: int, field: str, out: memoryview) -> Record:
        data = self._read(index)
        record = self._decode(index, data)
        payload = record.pop(field)
        if len(payload) != len(out):
            raise RecordError(
                f"{self.describe(index)} has {len(payload)} bytes of {field!r}, wanted {len(out)}"
            )
        out[:] = payload
        start = _offset_in(payload, data)
        if wire.payload_before(data[:start], field, len(payload)) is not None:
            self._payload_at[field, len(out)] = start
        return record

    # ------------------------------------------------------------------------------- opening

    def _open_index(
        self, names: list[str], sizes: list[int], entries: int | None
    ) -> indexing.Index:
        """Map or parse the index of a folder of `entries` records; None: it was not finished."""
        recover = entries is None
        index = None if recover else indexing.load(self.path, self._state)
        if index is not None and len(index) == entries and _fits(index, sizes):
            return index
        files = [os.path.join(self.path, name) for name in names]
        parsed = [
            indexing.parse_text(f, n, recover=recover) for f, n in zip(files, sizes, strict=True)
        ]
        index = indexing.from_shards([rows for rows, _ in parsed])
        if recover:
            dropped = sum(count for _, count in parsed)
            warnings.warn(
                f"{self.path} has no METADATA: its writer did not finish. {len(index)} complete "
                f"records are read, {dropped} torn ones are left out",
                stacklevel=4,
            )
        elif len(index) >= LARGE:
            indexing.save(self.path, index, self._state)
        return index

    def _recover_fields(self) -> Mapping[str, Any]:
        journal = _read_json(os.path.join(self.path, JOURNAL))
        if journal is not None:
            return journal["features"]
        if not len(self):
            raise RecordError(f"{self.path} has neither METADATA nor a complete record")
        try:
            return wire.infer_types(self._read(0))
        except ValueError as error:
            raise RecordError(f"{self.describe(0)} is damaged: {error}") from error

    # -------------------------------------------------------------------------------- shapes

    def _scan_shapes(self) -> indexing.Index:
        if self.fields.get("shape") != ["INT64"]:
            fields = dict(self.fields)
            raise RecordError(f"{self.path} has no field 'shape' of type [INT64], only {fields}")
        known: dict[tuple[int, ...], int] = {}
        ids = np.zeros(len(self), np.uint16)
        for index in range(len(self)):
            ids[index] = known.setdefault(self._shape_of(index), len(known))
        return self.index.with_shapes(list(known), ids)

    def _shape_of(self, index: int) -> tuple[int, ...]:
        """Read only as far as the shape, which comes first as a rule."""
        shard, offset, size = self.index.locate(index)
        probe = self._files.read(shard, offset, min(size, PROBE))
        try:
            name, _, _, end = wire.entry(probe, 0, len(probe))
            if name == "shape":
                return tuple(wire.decode(probe[:end], {"shape": ["INT64"]})["shape"])
        except ValueError:
            pass  # the first entry is longer than the probe
        return tuple(self[index]["shape"])


def _fits(index: indexing.Index, sizes: list[int]) -> bool:
    """Whether each shard still holds its last record."""
    last = index.first[1:] - 1
    full = last >= index.first[:-1]
    ends = index.offset[last[full]] + index.size[last[full]]
    return bool(np.all(ends <= np.asarray(sizes)[full]))


def _offset_in(part: memoryview, whole: bytes) -> int:
    """Where a view lies in the bytes that it is a view of."""
    address = np.frombuffer(part, np.uint8).ctypes.data if len(part) else 0
    return address - np.frombuffer(whole, np.uint8).ctypes.data if address else 0


def index_names(path: str) -> list[str]:
    """The text indexes of a folder, in the order that numbers its records."""
    return sorted(name for name in os.listdir(path) if name.endswith(".index"))


def _read_json(file: str) -> dict[str, Any] | None:
    try:
        with open(file, encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RecordError(f"{file} is not JSON: {error}") from error
