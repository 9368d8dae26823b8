# SPDX-License-Identifier: Apache-2.0
"""Several record folders as one source of training: weighted, joined field by field, or in part."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from diffnext.data.parse import moments_shape
from diffnext.data.prompt_cache import WORDS, words_of
from diffnext.data.records import Record, RecordError, RecordReader, open_reader, read_identity
from diffnext.data.records.base import group_records
from diffnext.data.remote.reader import RemoteReader
from diffnext.data.remote.store import RemoteError
from diffnext.data.urls import is_url

Spec = str | Sequence[str] | Mapping[str, float]


def open_datasets(
    spec: Spec, joined: Spec = "", *, remote: Mapping[str, Any] | None = None
) -> tuple[list[RecordReader], list[float]]:
    """Open what a configuration names.

    Args:
        spec: "a", "a:2,b:1", a list of such entries or {"a": 2, "b": 1}; the number says how often
            the folder passes in an epoch, 1 if not given.
        joined: folders whose fields are added, record by record, to those of `spec`, or replace them;
            as many as in `spec`, or none.
        remote: keyword arguments of `RemoteReader`, for URLs.

    Returns:
        The datasets and their weights.

    Raises:
        ValueError: a weight that is not above 0, another number of folders, of other lengths, or
            a URL that cannot be read.
    """
    entries, others = split_spec(spec), split_spec(joined)
    if not entries:
        raise ValueError("no dataset is given; name a record folder")
    readers = [_open(path, remote or {}) for path, _ in entries]
    if others:
        if len(others) != len(entries):
            raise ValueError(f"{len(others)} folders are to be joined to {len(entries)}")
        more = [_open(path, remote or {}) for path, _ in others]
        readers = [JoinedReader(a, b) for a, b in zip(readers, more, strict=True)]
    return readers, [weight for _, weight in entries]


def _open(path: str, remote: Mapping[str, Any]) -> RecordReader:
    if not is_url(path):
        return open_reader(path)
    try:
        return RemoteReader(path, **remote)
    except RemoteError as error:
        raise ValueError(str(error)) from error


def split_spec(spec: Spec) -> list[tuple[str, float]]:
    """Paths and weights of "a:2,b:1", ["a:2", "b"] or {"a": 2, "b": 1}.

    Only a number after the last colon is a weight, so `C:\\cache` and `C:\\cache:2` are what they
    look like. A folder with a comma in its name is given alone, in a list or in a mapping.

    Raises:
        ValueError: a weight that is not above 0.
    """
    if isinstance(spec, Mapping):
        return [(path, _weight(path, weight)) for path, weight in spec.items()]
    if isinstance(spec, str):
        spec = [spec] if os.path.isdir(spec) else spec.split(",")
    return [_split_entry(entry.strip()) for entry in spec if entry.strip()]


def _split_entry(entry: str) -> tuple[str, float]:
    path, colon, text = entry.rpartition(":")
    if os.path.isdir(entry) or not colon or not path or re.fullmatch("https?://[^/:]+", path):
        return entry, 1.0  # what follows the name of a web server is its port
    try:
        weight = float(text)
    except ValueError:
        return entry, 1.0
    return path, _weight(entry, weight)


def _weight(entry: str, weight: Any) -> float:
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not (number and math.isfinite(weight) and weight > 0):
        raise ValueError(f"dataset {entry!r} has weight {weight!r}, wanted a number above 0")
    return float(weight)


def identity_of(reader: RecordReader, field: str) -> dict[str, Any] | None:
    """What the folder that a field comes from states of what made it; None: nothing.

    Raises:
        ValueError: the statement is damaged.
    """
    while isinstance(reader, JoinedReader | SelectedReader):
        reader = reader.source_of(field)
    return read_identity(getattr(reader, "folder", reader.path))


class JoinedReader:
    """Two datasets of one length, record i with record i; the second one's fields win.

    `shape` goes with `moments`: it is taken from the dataset that these come from. Embeddings that
    say of which texts they are must be of those of the first one: a `RecordError` tells where not.

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
        return self._join(index, self.first[index], self.second[index])

    def read(self, indices: Sequence[int], **options: Any) -> list[Record]:
        """Decode several records."""
        both = (reader.read(indices, **options) for reader in (self.first, self.second))
        return [self._join(i, a, b) for i, a, b in zip(indices, *both, strict=True)]

    def read_into(
        self, indices: Sequence[int], field: str, outs: Sequence[memoryview], **options: Any
    ) -> list[Record]:
        """Read one BYTES field of several records straight into `outs`; return the other fields."""
        if field in self.second.fields:
            first = self.first.read(indices, **options)
            second = self.second.read_into(indices, field, outs, **options)
        else:
            first = self.first.read_into(indices, field, outs, **options)
            second = self.second.read(indices, **options)
        merged = [self._join(i, a, b) for i, a, b in zip(indices, first, second, strict=True)]
        return [{k: v for k, v in record.items() if k != field} for record in merged]

    def shapes(self) -> tuple[list[tuple[int, ...]], np.ndarray | None]:
        return self._owner.shapes()

    def groups(self) -> list[tuple[tuple[int, ...], np.ndarray | None]]:
        return self._owner.groups()

    def describe(self, index: int) -> str:
        return f"{self.first.describe(index)} with {self.second.describe(index)}"

    def source_of(self, field: str) -> RecordReader:
        """The dataset that a field is taken from."""
        return self.second if field in self.second.fields else self.first

    def close(self) -> None:
        self.first.close()
        self.second.close()

    def _join(self, index: int, first: Record, second: Record) -> Record:
        caption = first.get("caption") or first.get("text")
        if WORDS in second and isinstance(caption, str) and words_of(first) != second[WORDS]:
            raise RecordError(
                f"{self.describe(index)}: the embeddings are of {second[WORDS][0]!r}, the caption is "
                f"{caption!r}. Records of {self.first.path} were changed or dropped since they were "
                "embedded; embed them again, into another folder: diffnext cache prompts"
            )
        return self._merge(first, second)

    def _merge(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
        merged = {**first, **second}
        if "caption" in second and "captions" not in second:
            merged.pop("captions", None)  # they are others than the caption, which was replaced
        owned = second if self._owner is self.second else first
        if "shape" in owned:
            merged["shape"] = owned["shape"]
        return merged


def places_of(reader: RecordReader) -> list[str]:
    """What is read from where, of datasets that are not local."""
    if isinstance(reader, JoinedReader):
        return places_of(reader.first) + places_of(reader.second)
    return [reader.about()] if isinstance(reader, RemoteReader) else []


def select_shapes(reader: RecordReader, left_out: Collection[tuple[int, ...]]) -> RecordReader:
    """A dataset without the records of some shapes.

    Args:
        left_out: shapes (2C, T, H, W) of moments.
    """
    kept = [
        np.arange(len(reader)) if members is None else members
        for shape, members in reader.groups()
        if moments_shape(shape) not in left_out
    ]
    return SelectedReader(reader, np.sort(np.concatenate([np.empty(0, np.uint32), *kept])))


class SelectedReader:
    """Some records of a dataset, numbered anew in their order.

    Args:
        source: the dataset.
        chosen: (n,) numbers of records in it.
    """

    def __init__(self, source: RecordReader, chosen: np.ndarray) -> None:
        self.source = source
        self.path = source.path
        self.fields = source.fields
        self.chosen = chosen.astype(np.uint32)  # 4 bytes a record

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.chosen[index])]

    def read(self, indices: Sequence[int], **options: Any) -> list[Record]:
        """Decode several records."""
        return self.source.read(self.chosen[list(indices)].tolist(), **options)

    def read_into(
        self, indices: Sequence[int], field: str, outs: Sequence[memoryview], **options: Any
    ) -> list[Record]:
        """Read one BYTES field of several records straight into `outs`; return the other fields."""
        return self.source.read_into(self.chosen[list(indices)].tolist(), field, outs, **options)

    def shapes(self) -> tuple[list[tuple[int, ...]], np.ndarray | None]:
        shapes, ids = self.source.shapes()
        if ids is None:
            return shapes, None
        present, chosen = np.unique(ids[self.chosen], return_inverse=True)
        return [shapes[i] for i in present], chosen.astype(np.uint16) if len(present) > 1 else None

    def groups(self) -> list[tuple[tuple[int, ...], np.ndarray | None]]:
        return group_records(*self.shapes())

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.chosen[index]))

    def source_of(self, field: str) -> RecordReader:
        """The dataset that a field is taken from."""
        return self.source

    def close(self) -> None:
        self.source.close()
