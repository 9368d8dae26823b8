# SPDX-License-Identifier: Apache-2.0
"""Stores of records: open one to read, open one to write, and the statement of what made it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from diffnext.data.records.base import (
    STORAGES,
    DamagedRecord,
    Record,
    RecordError,
    RecordReader,
    RecordWriter,
    Storage,
    Times,
)
from diffnext.data.records.identity import read_identity, write_identity

__all__ = [
    "STORAGES",
    "DamagedRecord",
    "Record",
    "RecordError",
    "RecordReader",
    "RecordWriter",
    "Storage",
    "Times",
    "holds_records",
    "open_reader",
    "open_writer",
    "read_identity",
    "write_identity",
]


def holds_records(path: str) -> bool:
    """Whether there is such a folder, with records of any known format."""
    return os.path.isdir(path) and any(STORAGES.get(name).detect(path) for name in STORAGES.names())


def open_reader(path: str | os.PathLike[str]) -> RecordReader:
    """Open a folder of records, in whichever format it is.

    Raises:
        FileNotFoundError: there is no such folder.
        RecordError: it holds no records, or they are damaged.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{path} is not a folder of records")
    for name in STORAGES.names():
        storage = STORAGES.get(name)
        if storage.detect(path):
            return storage.reader(path)
    held = sorted(os.listdir(path))[:5]
    raise RecordError(f"{path} holds no records of a known format {STORAGES.names()}, only {held}")


def open_writer(
    path: str | os.PathLike[str],
    fields: Mapping[str, Any],
    *,
    storage: str = "record_folder",
    **options: Any,
) -> RecordWriter:
    """Open a folder to write records to; `options` are keyword arguments of the storage's writer.

    Args:
        path: the folder; made if it is not there.
        fields: name -> type, as in {"moments": "bytes", "shape": ["int64"], "caption": "string"}.
        storage: the format.
    """
    return STORAGES.get(storage).writer(os.fspath(path), fields, **options)
