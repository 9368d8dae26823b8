# SPDX-License-Identifier: Apache-2.0
"""Several record folders as one source of training: side by side with weights, or field by field."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffnext.data.records import Record, RecordReader, open_reader

Spec = str | Sequence[str]


def open_datasets(spec: Spec, joined: Spec = "") -> tuple[list[RecordReader], list[float]]:
    """Open what a configuration names.

    Args:
        spec: "a", "a:2,b:1" or a list of such entries; the number says how often the folder passes in
            an epoch, 1 if not given.
        joined: folders whose fields are added, record by record, to those of `spec`, or replace them;
            as many as in `spec`, or none.

    Returns:
        The datasets and their weights.

    Raises:
        ValueError: a weight that is not above 0, another number of folders, of other lengths.
    """
    entries, others = split_spec(spec), split_spec(joined)
    if not entries:
        raise ValueError("no dataset is given; name a record folder")
    readers = [open_reader(path) for path, _ in entries]
    if others:
        if len(others) != len(entries):
            raise ValueError(f"{len(others)} folders are to be joined to {len(entries)}")
        more = [open_reader(path) for path, _ in others]
        readers = [JoinedReader(a, b) for a, b in zip(readers, more, strict=True)]
    return readers, [weight for _, weight in entries]


def split_spec(spec: Spec) -> list[tuple[str, float]]:
    """Paths and weights of "a:2,b:1" or ["a:2", "b"].

    Only a number after the last colon is a weight, so `C:\\cache` and `C:\\cache:2` are what they
    look like. A folder with a comma in its name is given alone, or in a list.
    """
    if isinstance(spec, str):
        spec = [spec] if os.path.isdir(spec) else spec.split(",")
    return [_split_entry(entry.strip()) for entry in spec if entry.strip()]


def _split_entry(entry: str) -> tuple[str, float]:
    path, colon, text = entry.rpartition(":")
    if os.path.isdir(entry) or not colon or not path:
        return entry, 1.0
    try:
        weight = float(text)
    except ValueError:
        return entry, 1.0
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"dataset {entry!r} has weight {text}, wanted a number above 0")
    return path, weight


class JoinedReader:
    """Two datasets of one length, record i with record i; the second one's fields win.

    `shape` goes with `moments`: it is taken from the dataset that these come from.

    Raises:
        ValueError: the lengths differ.
    """

    def __init__(self, first: RecordReader, second: RecordReader) -> None:
        if len(first) != len(second):
            raise ValueError(
                f"{first.path} has {len(first)} records and {second.path} has {len(second)}; "
                "folders that are joined have the same"
            )
        self.first, self.second = first, second
        self.path = f"{first.path} with {second.path}"
        self._owner = second if "moments" in second.fields else first
        self.fields: Mapping[str, Any] = self._merge(first.fields, second.fields)

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int) -> Record:
        return self._merge(self.first[index], self.second[index])

    def read_into(
        self, indices: Sequence[int], field: str, outs: Sequence[memoryview], **options: Any
    ) -> list[Record]:
        """Read one BYTES field of several records straight into `outs`; return the other fields."""
        if field in self.second.fields:
            first = [self.first[index] for index in indices]
            second = self.second.read_into(indices, field, outs, **options)
        else:
            first = self.first.read_into(indices, field, outs, **options)
            second = [self.second[index] for index in indices]
        merged = [self._merge(a, b) for a, b in zip(first, second, strict=True)]
        return [{k: v for k, v in record.items() if k != field} for record in merged]

    def shapes(self) -> tuple[list[tuple[int, ...]], np.ndarray | None]:
        return self._owner.shapes()

    def groups(self) -> list[tuple[tuple[int, ...], np.ndarray | None]]:
        return self._owner.groups()

    def describe(self, index: int) -> str:
        return f"{self.first.describe(index)} with {self.second.describe(index)}"

    def close(self) -> None:
        self.first.close()
        self.second.close()

    def _merge(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
        merged = {**first, **second}
        owned = second if self._owner is self.second else first
        if "shape" in owned:
            merged["shape"] = owned["shape"]
        return merged
