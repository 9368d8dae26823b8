# SPDX-License-Identifier: Apache-2.0
"""A dataset in memory, for tests of order and of errors."""

from __future__ import annotations

import numpy as np

from diffnext.data.records.base import DamagedRecord, group_records


class ToyReader:
    """Records whose moments are all their own number.

    Args:
        shapes: the stored shape of each record.
        bad: numbers of records that cannot be read.
        damaged: numbers of records that are not what was written.
    """

    def __init__(self, shapes, *, path="toy", bad=(), damaged=()):
        self.path = path
        self.fields = {"moments": "BYTES", "shape": ["INT64"], "caption": "STRING"}
        self.all_shapes = [tuple(shape) for shape in shapes]
        self.bad = set(bad)
        self.damaged = set(damaged)
        self.closed = False

    def __len__(self):
        return len(self.all_shapes)

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError(f"cannot read {self.describe(index)}")
        if index in self.damaged:
            raise DamagedRecord(f"{self.describe(index)} is damaged")
        shape = self.all_shapes[index]
        moments = np.full(shape, index, "<f2").tobytes()
        return {"moments": moments, "shape": list(shape), "caption": f"{self.path} {index}"}

    def read_into(self, indices, field, outs, *, verify=True, times=None):
        records = [self[index] for index in indices]
        for record, out in zip(records, outs, strict=True):
            out[:] = record.pop(field)
        return records

    def shapes(self):
        shapes = sorted(set(self.all_shapes))
        ids = np.array([shapes.index(shape) for shape in self.all_shapes], np.uint16)
        return shapes, ids if len(shapes) > 1 else None

    def groups(self):
        return group_records(*self.shapes())

    def describe(self, index):
        return f"{self.path} record {index}"

    def close(self):
        self.closed = True
