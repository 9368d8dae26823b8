# SPDX-License-Identifier: Apache-2.0
"""What a store of records offers, whatever its bytes on disk look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from diffnext.utils.registry import Registry

Buffer = bytes | bytearray | memoryview
Record = dict[str, Any]
"""One example as stored, by field: "moments" (a buffer of float16), "shape" (list of int, no batch
axis), "caption" and "text" (str, or {"data", "shape"} of an embedding), "label" (int) and "flow".
"""

STORAGES = Registry("storage", package="diffnext.data.records")


class RecordError(ValueError):
    """A store of records is damaged or incomplete; the message names the file and the record."""


class DamagedRecord(RecordError):
    """The bytes of one record are not those that were written; others may be read."""


def group_records(
    shapes: Sequence[tuple[int, ...]], ids: np.ndarray | None
) -> list[tuple[tuple[int, ...], np.ndarray | None]]:
    """Each shape with the numbers, rising, of the records whose id is its place.

    Args:
        shapes: the different ones.
        ids: (N,) integers into `shapes`; None: all records have the first.
    """
    if ids is None:
        return [(shape, None) for shape in shapes]
    order = np.argsort(ids, kind="stable").astype(np.uint32)  # 4 bytes a record
    ends = np.cumsum(np.bincount(ids, minlength=len(shapes)))
    return list(zip(shapes, np.split(order, ends[:-1]), strict=True))


@dataclass
class Times:
    """Seconds that reading took, summed over threads."""

    read_s: float = 0.0  # bytes from files to memory
    decode_s: float = 0.0  # checksums, fields, making a batch of them


class RecordReader(Protocol):
    """Random access to records: cheap to open, safe after a fork and between threads, picklable."""

    path: str
    fields: Mapping[
        str, Any
    ]  # name -> "BYTES" | "STRING" | "FLOAT32" | "INT64" | [type] | {name: type}

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def read(
        self, indices: Sequence[int], *, verify: bool = True, times: Times | None = None
    ) -> list[Record]:
        """Decode several records, which are read at the same time; see `read_into`."""
        ...

    def read_into(
        self,
        indices: Sequence[int],
        field: str,
        outs: Sequence[memoryview],
        *,
        verify: bool = True,
        times: Times | None = None,
    ) -> list[Record]:
        """Read one BYTES field of several records straight into `outs`; return the other fields.

        `verify` compares records that have a checksum with it; what the call took is added to
        `times`.
        """
        ...

    def shapes(self) -> tuple[list[tuple[int, ...]], np.ndarray | None]:
        """The different values of `shape`, sorted, and each record's place among them (None: 0)."""
        ...

    def groups(self) -> list[tuple[tuple[int, ...], np.ndarray | None]]:
        """Each value of `shape` with the numbers of its records, rising; None: all of them."""
        ...

    def describe(self, index: int) -> str:
        """File and number of a record, for messages."""
        ...

    def close(self) -> None: ...


class RecordWriter(Protocol):
    """Adds records to a folder; each is safe from a killed process once `write` returned."""

    def write(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Storage:
    """A format: how to recognise a folder of it, read it and write it."""

    detect: Callable[[str], bool]
    reader: type[RecordReader]
    writer: type[RecordWriter]
