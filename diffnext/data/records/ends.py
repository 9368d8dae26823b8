# SPDX-License-Identifier: Apache-2.0
"""What lies before and behind a payload that is read straight to where it is wanted.

Records of one kind agree in what comes before the payload: a shape, as a rule. So where it starts is
guessed, and what comes before is decoded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from diffnext.data.records import wire
from diffnext.data.records.base import Record
from diffnext.data.records.files import Job
from diffnext.data.records.index import Row

HEADS = 256  # beginnings of records whose decoded fields are kept

Parts = tuple[bytearray, memoryview, bytearray]
"""Head, payload and tail of a record."""
NOTHING: Parts = bytearray(), memoryview(bytearray()), bytearray()  # holds no payload


def whole_parts(rows: Sequence[Row], jobs: Sequence[Job], counts: Sequence[int]) -> list[Parts]:
    """The parts of each record that was read as far as it goes; of another, `NOTHING`."""
    parts = [job[2] for job in jobs]
    if counts != [row[2] for row in rows]:
        checked = zip(rows, counts, parts, strict=True)
        parts = [read if count == row[2] else NOTHING for row, count, read in checked]
    return parts


class Ends:
    """Heads and tails of the records of a folder, whose fields have these types. For threads."""

    def __init__(self, fields: Mapping[str, wire.FeatureType]) -> None:
        self._fields = fields
        self._texts = {name: wire.Openings() for name, kind in fields.items() if kind == "STRING"}
        self._starts: dict[tuple[str, int], int] = {}
        self._heads: dict[bytes, Record] = {}

    def jobs(self, rows: Sequence[Row], field: str, outs: Sequence[memoryview]) -> list[Job]:
        """What to read: a payload into each of `outs`, and what lies before it and behind it."""
        start = self._starts.get((field, len(outs[0])), 0)
        jobs: list[Job] = []
        for (shard, offset, size, _), out in zip(rows, outs, strict=True):
            rest = size - start - len(out)
            parts = (bytearray(start), out, bytearray(rest)) if rest >= 0 else NOTHING
            jobs.append((shard, offset, parts))
        return jobs

    def decode(self, field: str, records: Iterable[Parts]) -> Iterator[Record | None]:
        """The other fields of each; None if it was not the field's payload that was read as such.

        Raises:
            ValueError: the bytes are not those of such a record.
        """
        seen, before, others = None, None, len(self._fields) - 1
        for head, out, tail in records:
            if head != seen:
                seen, before = head, self._before(bytes(head), field, out)
            if before is None:
                yield None
                continue
            record = before.copy()
            done = wire.decode_texts(tail, self._texts, record)
            is_all = done == len(tail) and len(record) == others
            yield record if is_all else self._complete(record, field, tail, done)

    def learn_start(self, field: str, payload: memoryview, data: bytes) -> None:
        """Guess from now on that payloads of this size start where this one does in its record."""
        start = _offset_in(payload, data)
        if wire.payload_before(data[:start], field, len(payload)) is not None:
            self._starts[field, len(payload)] = start

    def _complete(self, record: Record, field: str, tail: bytearray, done: int) -> Record | None:
        """Add what stands behind the texts, and zeros for what is absent."""
        record |= wire.decode_present(tail, done, len(tail), self._fields)
        if field in record:  # a second time, which is the one that counts
            return None
        if len(record) + 1 < len(self._fields):
            record = wire.complete(record, self._fields)
            del record[field]
        return record

    def _before(self, head: bytes, field: str, out: memoryview) -> Record | None:
        """The fields before a payload, decoded once; None where no such payload comes next."""
        known = self._heads.get(head)
        if known is None and (end := wire.payload_before(head, field, len(out))) is not None:
            known = wire.decode_present(head, 0, end, self._fields)
            known.pop(field, None)  # of two entries the later one counts, which is the payload
            if len(self._heads) >= HEADS:
                self._heads = {}
            self._heads[head] = known
        return known


def _offset_in(part: memoryview, whole: bytes) -> int:
    """Where a view lies in the bytes that it is a view of."""
    address = np.frombuffer(part, np.uint8).ctypes.data if len(part) else 0
    return address - np.frombuffer(whole, np.uint8).ctypes.data if address else 0
