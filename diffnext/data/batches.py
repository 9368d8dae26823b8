# SPDX-License-Identifier: Apache-2.0
"""Reads the records of a batch straight into its memory; says what is damaged, or reads on."""

from __future__ import annotations

import threading
import time
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from diffnext.data.buckets import Bucket
from diffnext.data.buffers import Buffers
from diffnext.data.parse import draw_prompts, moments, moments_shape
from diffnext.data.records.base import (
    DamagedRecord,
    Record,
    RecordError,
    RecordReader,
    Times,
)
from diffnext.data.sampler import GlobalBatch
from diffnext.data.schema import Batch, collate

ON_DAMAGE = ("error", "skip")
PATIENCE = 100  # damaged records in a row, from which on it is not a matter of single records


class BatchReader:
    """Makes batches of the records of several datasets, which are counted through. For threads.

    Args:
        readers: the datasets.
        buckets: their records by shape.
        seed: of the choice of captions.
        short_caption: probability that a sample is trained on its short caption.
        pin_memory: make batches in page-locked memory.
        verify: compare records with their checksums.
        on_damage: "error", or "skip": the next undamaged record of the same dataset and shape
            stands in for a damaged one, which is told of once.

    Raises:
        ValueError: another `on_damage`.
    """

    def __init__(
        self,
        readers: Sequence[RecordReader],
        buckets: Sequence[Bucket],
        *,
        seed: int,
        short_caption: float,
        pin_memory: bool,
        verify: bool,
        on_damage: str,
    ) -> None:
        if on_damage not in ON_DAMAGE:
            raise ValueError(f"on_damage is {on_damage!r}, wanted one of {ON_DAMAGE}")
        self.readers = readers
        self.seed = seed
        self.short_caption = short_caption
        self.verify = verify
        self.on_damage = on_damage
        self.times = Times()
        self.damaged = 0  # samples that another record stood in for
        self._buckets = {bucket.shape: bucket for bucket in buckets}
        self._starts = [0, *accumulate(map(len, readers))]
        self._buffers = Buffers(pinned=pin_memory)
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def read(self, plan: GlobalBatch, rows: slice) -> Batch:
        """Read some samples of a global batch.

        Raises:
            DamagedRecord: a record's bytes are not those that were written.
            RecordError: a record is not what the index or the other records say.
        """
        begin, times = time.perf_counter(), Times()
        index, epoch = plan.index[rows].copy(), plan.epoch[rows].copy()
        buffer, slots = self._buffers.take((len(index), *plan.shape))
        records = self._read_or_replace(plan.shape, index, slots, times)
        self._check_shapes(records, index, plan.shape)
        prompts = self._prompts(records, index.tolist(), epoch.tolist())
        batch = collate(records, prompts, moments=buffer, index=index, epoch=epoch)
        with self._lock:
            self.times.read_s += times.read_s
            self.times.decode_s += time.perf_counter() - begin - times.read_s
        return batch

    def describe(self, index: int) -> str:
        """File and number of a record, for messages."""
        reader, local = self._place(index)
        return reader.describe(local)

    # ---------------------------------------------------------------------------- one batch

    def _read(self, indices: list[int], slots: list[memoryview], times: Times) -> list[Record]:
        """The records without their moments, which are in `slots` then."""
        if len(self.readers) == 1:
            return self._read_into(self.readers[0], indices, slots, times)
        numbers = [bisect_right(self._starts, index) - 1 for index in indices]
        records: list[Record] = [{}] * len(indices)
        for number in set(numbers):
            places = [place for place, found in enumerate(numbers) if found == number]
            local = [indices[place] - self._starts[number] for place in places]
            outs = [slots[place] for place in places]
            read = self._read_into(self.readers[number], local, outs, times)
            for place, record in zip(places, read, strict=True):
                records[place] = record
        return records

    def _read_into(
        self, reader: RecordReader, local: list[int], outs: list[memoryview], times: Times
    ) -> list[Record]:
        try:
            return reader.read_into(local, "moments", outs, verify=self.verify, times=times)
        except DamagedRecord:
            raise
        except RecordError:
            for index in local:
                _explain(reader, index)
            raise

    def _check_shapes(
        self, records: list[Record], index: np.ndarray, shape: tuple[int, ...]
    ) -> None:
        """Stop where a record has not the shape by which it was put into this batch."""
        stored = [record["shape"] for record in records]
        if stored.count(stored[0]) == len(stored) and moments_shape(stored[0]) == shape:
            return
        wrong = [i for i, found in enumerate(stored) if moments_shape(found) != shape]
        for place in wrong[:1]:
            raise RecordError(
                f"{self.describe(int(index[place]))} has shape {stored[place]}, the index of its "
                f"folder says {list(shape)}"
            )

    def _prompts(
        self, records: list[Record], index: list[int], epoch: list[int]
    ) -> list[str | np.ndarray | None]:
        drawn = draw_prompts(
            records, seed=self.seed, index=index, epoch=epoch, short_caption=self.short_caption
        )
        prompts: list[str | np.ndarray | None] = []
        try:
            prompts.extend(drawn)
        except ValueError as error:
            raise RecordError(f"{self.describe(index[len(prompts)])}: {error}") from error
        return prompts

    def _place(self, index: int) -> tuple[RecordReader, int]:
        number = bisect_right(self._starts, index) - 1
        return self.readers[number], index - self._starts[number]

    # ----------------------------------------------------------------------- damaged records

    def _read_or_replace(
        self, shape: tuple[int, ...], index: np.ndarray, slots: list[memoryview], times: Times
    ) -> list[Record]:
        """Read; where a record is damaged and may be skipped, another's number enters `index`."""
        try:
            return self._read(index.tolist(), slots, times)
        except DamagedRecord:
            if self.on_damage == "error":
                raise
        records = []
        for place, wanted in enumerate(index.tolist()):
            index[place], record = self._read_next(shape, wanted, slots[place], times)
            records.append(record)
        return records

    def _read_next(
        self, shape: tuple[int, ...], wanted: int, slot: memoryview, times: Times
    ) -> tuple[int, Record]:
        """The first undamaged record from `wanted` on."""
        for index in self._from(shape, wanted):
            try:
                (record,) = self._read([index], [slot], times)
            except DamagedRecord as error:
                self._tell(index, error)
                last = error
                continue
            with self._lock:
                self.damaged += index != wanted
            return index, record
        raise RecordError(f"no record can stand in for {self.describe(wanted)}: {last}") from last

    def _from(self, shape: tuple[int, ...], index: int) -> Iterator[int]:
        for _ in range(PATIENCE):
            yield index
            index = self._buckets[shape].after(index)

    def _tell(self, index: int, error: DamagedRecord) -> None:
        with self._lock:
            known = index in self._told
            self._told.add(index)
        if not known:
            warnings.warn(f"{error}; the next record is read instead", stacklevel=2)


def _explain(reader: RecordReader, index: int) -> None:
    """Raise what is wrong with the moments of a record, if it is they."""
    record = reader[index]
    try:
        moments(record)
    except ValueError as error:
        raise RecordError(f"{reader.describe(index)}: {error}") from error
