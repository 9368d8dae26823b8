# SPDX-License-Identifier: Apache-2.0
"""Made-up records with moments, for tests of the record stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffnext.data.records import DamagedRecord, open_reader, open_writer
from diffnext.data.records.folder_reader import FolderReader

FIELDS = {"moments": "bytes", "shape": ["int64"], "caption": "string", "flow": "float64"}
SHAPES = ([8, 4, 6], [8, 6, 4], [8, 2, 4, 6])


def record(i: int, shapes=SHAPES) -> dict:
    shape = shapes[i % len(shapes)]
    moments = np.random.default_rng(i).standard_normal(shape).astype("<f2")
    return {"moments": moments, "shape": shape, "caption": "\xe9" * (i % 7), "flow": i / 2}


def same(read: dict, written: dict) -> bool:
    moments = np.frombuffer(read["moments"], "<f2").reshape(read["shape"])
    rest = {name: value for name, value in written.items() if name != "moments"}
    return np.array_equal(moments, written["moments"]) and rest == {
        name: value for name, value in read.items() if name != "moments"
    }


def write(path: Path, count: int, first: int = 0, **options) -> Path:
    with open_writer(path, FIELDS, **options) as writer:
        for i in range(first, first + count):
            writer.write(record(i))
    return path


def read_all(path: Path) -> list[dict]:
    reader = open_reader(path)
    return [reader[i] for i in range(len(reader))]


def damaged(reader: FolderReader) -> dict[int, str]:
    """The records that cannot be trusted, and why."""
    found = {}
    for number in range(len(reader)):
        try:
            reader[number]
        except DamagedRecord as error:
            found[number] = str(error)
    return found
