# SPDX-License-Identifier: Apache-2.0
"""Which records make up which optimizer step: a function of (seed, size of a global batch) alone.

Each bucket is an endless stream of samples: its records in a random order, then again in another,
and so on, one pass an epoch. A global batch is a run of consecutive samples of one stream. It
belongs to the epoch in which its last sample passes, so a batch that an epoch does not fill is
finished by the next, and no sample is dropped or repeated. The batches of an epoch come in a random
order of buckets.

Every count is in closed form: any batch can be asked for, and a position is one number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffnext.data.buckets import Bucket
from diffnext.data.permutation import permute
from diffnext.utils.mixing import mix

AHEAD = 8192  # samples whose numbers are computed at once, half a millisecond's work


@dataclass(frozen=True)
class GlobalBatch:
    """The samples of one optimizer step, of one shape."""

    shape: tuple[int, ...]  # (2C, T, H, W)
    index: np.ndarray  # (G,) int64, number of the record through all datasets
    epoch: np.ndarray  # (G,) int64, times its dataset was gone through before


class Sampler:
    """The order of samples.

    Args:
        buckets: records by shape.
        global_batch: samples of one optimizer step, over all processes and micro-batches.
        seed: of the order.
    """

    def __init__(self, buckets: Sequence[Bucket], *, global_batch: int, seed: int) -> None:
        if global_batch < 1:
            raise ValueError(f"a global batch of {global_batch} samples; wanted at least 1")
        self.buckets = list(buckets)
        self.global_batch = global_batch
        self.seed = seed
        self.takes = [bucket.take for bucket in self.buckets]
        self._ahead: dict[int, GlobalBatch] = {}

    def __getitem__(self, number: int) -> GlobalBatch:
        """The batch of optimizer step `number`, counted from 0."""
        if number not in self._ahead:
            count = max(1, AHEAD // self.global_batch)
            self._ahead = self._compute(range(number, number + count))
        return self._ahead[number]

    def first_of(self, epoch: int) -> int:
        """Number of the first batch of an epoch."""
        return sum(self._full(bucket, epoch) for bucket in range(len(self.buckets)))

    def epoch_of(self, number: int) -> int:
        """The epoch that a batch belongs to."""
        per_epoch = sum(self.takes)
        low = number * self.global_batch // per_epoch
        high = (number + len(self.buckets)) * self.global_batch // per_epoch + 2
        return low + bisect_right(range(low, high), number, key=self.first_of) - 1

    def _full(self, bucket: int, epoch: int) -> int:
        """How many batches of a bucket are full when `epoch` begins."""
        return epoch * self.takes[bucket] // self.global_batch

    # ------------------------------------------------------------------------ several batches

    def _compute(self, numbers: Sequence[int]) -> dict[int, GlobalBatch]:
        places: dict[int, list[tuple[int, int]]] = {}  # bucket -> (number, place in its stream)
        for number, (bucket, place) in zip(numbers, self._places(numbers), strict=True):
            places.setdefault(bucket, []).append((number, place))
        batches = {}
        for bucket, found in places.items():
            offsets = np.arange(self.global_batch, dtype=np.int64)
            starts = np.array([place * self.global_batch for _, place in found], np.int64)
            index, epoch = self._samples(bucket, (starts[:, None] + offsets).ravel())
            rows = zip(
                found,
                index.reshape(-1, self.global_batch),
                epoch.reshape(-1, self.global_batch),
                strict=True,
            )
            for (number, _), *row in rows:
                batches[number] = GlobalBatch(self.buckets[bucket].shape, *row)
        return batches

    def _places(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Bucket of each batch, and its number among the batches of that bucket."""
        if len(self.buckets) == 1:
            return [(0, number) for number in numbers]
        epochs, slots, counts = np.array(self._slots(numbers), np.int64).T
        slots = permute(slots, counts, self._keys(epochs, "buckets"))
        firsts = epochs[:, None] * self.takes // self.global_batch  # (batches, buckets), as `_full`
        counts = (epochs[:, None] + 1) * self.takes // self.global_batch - firsts
        ends = counts.cumsum(axis=1)
        buckets = (ends <= slots[:, None]).sum(axis=1)
        rows = np.arange(len(slots))
        places = (firsts + slots[:, None] - (ends - counts))[rows, buckets]
        return list(zip(buckets.tolist(), places.tolist(), strict=True))

    def _slots(self, numbers: Sequence[int]) -> list[tuple[int, int, int]]:
        """Epoch of each batch, its number in the epoch, and how many batches that has."""
        slots, first, end, epoch = [], 0, 0, 0
        for number in numbers:
            if not first <= number < end:
                epoch = self.epoch_of(number)
                first, end = self.first_of(epoch), self.first_of(epoch + 1)
            slots.append((epoch, number - first, end - first))
        return slots

    # ------------------------------------------------------------------------ samples of a stream

    def _samples(self, bucket: int, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Record and epoch at positions of a bucket's stream."""
        parts, take = self.buckets[bucket].parts, self.takes[bucket]
        if len(parts) == 1 and parts[0].take == parts[0].count:
            return self._records(bucket, 0, position)
        epoch, rank = np.divmod(position, take)
        rank = permute(rank, take, self._keys(epoch, "mixture", self._name(bucket)))
        ends = np.cumsum([part.take for part in parts])
        which = np.searchsorted(ends, rank, "right")
        index, epochs = np.empty_like(position), np.empty_like(position)
        for number, part in enumerate(parts):
            mine = which == number
            inside = rank[mine] - (ends[number] - part.take)
            stream = epoch[mine] * part.take + inside
            index[mine], epochs[mine] = self._records(bucket, number, stream)
        return index, epochs

    def _records(
        self, bucket: int, part_number: int, position: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Record and epoch at positions of the stream of one dataset's part of a bucket."""
        part = self.buckets[bucket].parts[part_number]
        epoch, place = np.divmod(position, part.count)
        keys = self._keys(epoch, "records", self._name(bucket), part_number)
        return part.records(permute(place, part.count, keys)), epoch

    def _name(self, bucket: int) -> str:
        return "x".join(map(str, self.buckets[bucket].shape))

    def _keys(self, epochs: np.ndarray, *purpose: int | str) -> np.ndarray:
        values, inverse = np.unique(epochs, return_inverse=True)
        keys = [mix(self.seed, *purpose, epoch) for epoch in values.tolist()]
        return np.array(keys, np.uint64)[inverse]
