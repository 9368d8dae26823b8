# SPDX-License-Identifier: Apache-2.0
"""Reads folders of records as codewithgpu writes them: METADATA, 00000.data, 00000.index, ...

A folder without METADATA was not finished by its writer; what is complete in it can be read. A record
that has a checksum (see `checks`) is compared with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffnext.data.records import index as indexing
from diffnext.data.records import wire
from diffnext.data.records.base import Buffer, DamagedRecord, Record, RecordError, Times
from diffnext.data.records.checks import checksum
from diffnext.data.records.ends import NOTHING, Ends, Parts, whole_parts
from diffnext.data.records.files import Files
from diffnext.data.records.index import Row
from diffnext.data.records.layout import JOURNAL, LARGE, METADATA, open_index, read_json, sample_of

PROBE = 256  # bytes; holds the shape of a record and where its moments begin


class FolderReader:
    """Random access to a folder of records.

    Args:
        path: the folder.
        folder: where its files are, if not there: those of a folder behind a URL.
        files: gives access to the shards, by folder and names; another one than `Files` may read
            shards that are not in the folder.

    Raises:
        RecordError: METADATA and the index disagree, or a shard is missing, truncated or damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        folder: str | None = None,
        files: Callable[[str, list[str]], Files] = Files,
    ) -> None:
        self.path = os.fspath(path)
        self.folder = self.path if folder is None else folder
        self._state = indexing.text_state(self.folder)
        names = [name for name, *_ in self._state]
        self._files = files(self.folder, [name.removesuffix(".index") + ".data" for name in names])
        metadata = read_json(os.path.join(self.folder, METADATA))
        entries = None if metadata is None else metadata["entries"]
        self.index = open_index(self.folder, self._state, self._files.sizes(), entries)
        if metadata is None:
            metadata = {"features": self._recover_fields(), "entries": len(self)}
        self.fields: Mapping[str, wire.FeatureType] = wire.feature_types(metadata["features"])
        if metadata["entries"] != len(self):
            raise RecordError(
                f"{self.path}/METADATA says {metadata['entries']} records, the index files list "
                f"{len(self)}: one was lost or added (`diffnext cache verify --repair` brings back an index "
                "that diffnext.index.bin knows; without METADATA, what is listed is read)"
            )
        self._ends = Ends(self.fields)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def checked(self) -> int:
        """How many records have a checksum."""
        return 0 if self.index.sums is None else int(np.count_nonzero(self.index.sums))

    def __getitem__(self, index: int) -> Record:
        """Decode one record; BYTES are read-only memoryviews.

        Raises:
            IndexError: no such record.
            DamagedRecord: its bytes are not those that were written, or cannot be decoded.
        """
        return self._decode(index, self._read(index, verify=True))

    def raw(self, index: int, *, verify: bool = True) -> tuple[bytes, int]:
        """The bytes of a record as its shard has them, and their checksum; 0: there is none.

        Raises:
            IndexError: no such record.
            DamagedRecord: they are not all there, or `verify` finds others than were written.
        """
        return self._read(index, verify=verify), self.index.locate(index)[-1]

    def read(
        self, indices: Sequence[int], *, verify: bool = True, times: Times | None = None
    ) -> list[Record]:
        """Decode several records, which are read at the same time.

        Raises:
            IndexError, DamagedRecord: as for one.
        """
        begin = time.perf_counter()
        rows = self._locate_all(indices)
        jobs = [(shard, offset, (bytearray(size),)) for shard, offset, size, _ in rows]
        counts = self._files.read_into(jobs)
        middle = time.perf_counter()
        records = []
        for index, row, (_, _, (data,)), count in zip(indices, rows, jobs, counts, strict=True):
            self._check_read(index, row, data, count, verify)
            records.append(self._decode(index, memoryview(data).toreadonly()))
        if times is not None:
            times.read_s += middle - begin
            times.decode_s += time.perf_counter() - middle
        return records

    def read_into(
        self,
        indices: Sequence[int],
        field: str,
        outs: Sequence[memoryview],
        *,
        verify: bool = True,
        times: Times | None = None,
    ) -> list[Record]:
        """Read the payloads of one BYTES field straight into `outs`; return the other fields.

        Records of one kind mostly agree in where the payload starts, so a single scattered read
        fills its memory; where the guess was wrong, the record is read again and copied. All is
        read before anything is decoded: large copies push code and tables out of the caches.

        Raises:
            IndexError: no such record.
            DamagedRecord: the bytes of a record are not those that were written.
            RecordError: a payload has another size.
        """
        begin = time.perf_counter()
        rows = self._locate_all(indices)
        jobs = self._ends.jobs(rows, field, outs)
        counts = self._files.read_into(jobs)
        middle = time.perf_counter()
        parts = whole_parts(rows, jobs, counts)
        if verify:
            for index, (_, _, _, wanted), record in zip(indices, rows, parts, strict=True):
                if wanted and record is not NOTHING:
                    self._check(index, wanted, record)
        records = self._decode_ends(indices, field, parts)
        for place, record in enumerate(records):
            if record is None:
                index, out = indices[place], outs[place]
                records[place] = self._read_copied(index, field, out, verify)
        if times is not None:
            times.read_s += middle - begin
            times.decode_s += time.perf_counter() - middle
        return records

    def shapes(self) -> tuple[list[tuple[int, ...]], np.ndarray | None]:
        """The different values of the field `shape`, sorted, and which of them each record has.

        Raises:
            RecordError: the records have no `shape`.
        """
        groups = self.groups()
        return [shape for shape, _ in groups], self.index.shape_ids()

    def groups(self) -> list[tuple[tuple[int, ...], np.ndarray | None]]:
        """Each value of the field `shape`, sorted, with the numbers of its records, rising.

        None in place of the numbers: all records have it. A folder written here knows them. Another
        is read through, and if it is large and can be written to, the result is kept beside it.

        Raises:
            RecordError: the records have no `shape`.
        """
        if self.index.shapes is None:
            self.index = self._scan_shapes()
            if len(self) >= LARGE:
                indexing.save(self.folder, self.index, self._state)
        return self.index.groups()

    def save_index(self) -> None:
        """Keep the index, with the shapes, beside the records of a finished folder."""
        if "shape" in self.fields:
            self.groups()
        indexing.save(self.folder, self.index, self._state)

    def describe(self, index: int) -> str:
        """File and number of a record, and the sample that it was made of, for messages."""
        shard, offset, *_ = self.index.locate(index)
        sample = sample_of(self.folder, index)
        place = [f"number {index} of the folder", f"byte {offset}", sample]
        line = index - int(self.index.first[shard])
        file = os.path.join(self.path, os.path.basename(self._files.paths[shard]))
        return f"{file} record {line} ({', '.join(filter(None, place))})"

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        self._files.close()

    def __reduce__(self) -> tuple[type[FolderReader], tuple[str]]:
        return FolderReader, (self.path,)

    # ------------------------------------------------------------------------- one whole record

    def _read(self, index: int, *, verify: bool) -> bytes:
        (row,) = self._locate_all([index])
        data = self._files.read(*row[:3])
        self._check_read(index, row, data, len(data), verify)
        return data

    def _check_read(self, index: int, row: Row, data: Buffer, count: int, verify: bool) -> None:
        """Raise where not all of a record could be read, or other bytes than were written."""
        _, _, size, wanted = row
        if count != size:
            raise self._damaged(index, f"it has {count} bytes instead of {size}")
        if verify and wanted:
            self._check(index, wanted, (data,))

    def _decode(self, index: int, data: Buffer) -> Record:
        try:
            return wire.decode(data, self.fields)
        except ValueError as error:
            raise self._damaged(index, str(error)) from error

    def _locate_all(self, indices: Sequence[int]) -> list[Row]:
        if min(indices) < 0 or max(indices) >= len(self):
            outside = next(index for index in indices if not 0 <= index < len(self))
            raise IndexError(f"record {outside} of {self.path}, which has {len(self)}")
        return self.index.locate_all(indices)

    def _check(self, index: int, wanted: int, parts: Sequence[Buffer]) -> None:
        found = checksum(parts)
        if found != wanted:
            reason = f"its bytes have the checksum {found:016x}, written were {wanted:016x}"
            raise self._damaged(index, reason)

    def _damaged(self, index: int, reason: str) -> DamagedRecord:
        return DamagedRecord(f"{self.describe(index)} is damaged: {reason}")

    # ------------------------------------------------------------------- a payload and the rest

    def _decode_ends(
        self, indices: Sequence[int], field: str, records: Sequence[Parts]
    ) -> list[Record | None]:
        decoded: list[Record | None] = []
        try:
            decoded.extend(self._ends.decode(field, records))
        except ValueError as error:
            raise self._damaged(indices[len(decoded)], str(error)) from error
        return decoded

    def _read_copied(self, index: int, field: str, out: memoryview, verify: bool) -> Record:
        data = self._read(index, verify=verify)
        record = self._decode(index, data)
        payload = record.pop(field)
        if len(payload) != len(out):
            raise RecordError(
                f"{self.describe(index)} has {len(payload)} bytes of {field!r}, wanted {len(out)}"
            )
        out[:] = payload
        self._ends.learn_start(field, payload, data)
        return record

    # ------------------------------------------------------------------------ folders of others

    def _recover_fields(self) -> Mapping[str, Any]:
        journal = read_json(os.path.join(self.folder, JOURNAL))
        if journal is not None:
            return journal["features"]
        if not len(self):
            raise RecordError(f"{self.path} has neither METADATA nor a complete record")
        first = self._read(0, verify=True)
        try:
            return wire.infer_types(first)
        except ValueError as error:
            raise self._damaged(0, str(error)) from error

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
        shard, offset, size, _ = self.index.locate(index)
        probe = self._files.read(shard, offset, min(size, PROBE))
        try:
            name, _, _, end = wire.entry(probe, 0, len(probe))
            if name == "shape":
                return tuple(wire.decode(probe[:end], {"shape": ["INT64"]})["shape"])
        except ValueError:
            pass  # the first entry is longer than the probe
        return tuple(self[index]["shape"])
