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
from diffnext.utils.seeding import mix

AHEAD = 4096  # samples whose numbers are computed at once


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
        places: list[tuple[int, int]] = []
        while len(places) < len(numbers):
            number = numbers[len(places)]
            epoch = self.epoch_of(number)
            first, end = self.first_of(epoch), self.first_of(epoch + 1)
            slots = np.arange(number - first, min(end, numbers[-1] + 1) - first)
            key = np.full(len(slots), mix(self.seed, "buckets", epoch))
            places += self._slots_to_places(epoch, permute(slots, end - first, key))
        return places

    def _slots_to_places(self, epoch: int, slots: np.ndarray) -> list[tuple[int, int]]:
        firsts = [self._full(bucket, epoch) for bucket in range(len(self.buckets))]
        counts = [self._full(b, epoch + 1) - first for b, first in enumerate(firsts)]
        ends = np.cumsum(counts)
        buckets = np.searchsorted(ends, slots, "right")
        inside = slots - (ends - counts)[buckets]
        return [(b, firsts[b] + i) for b, i in zip(buckets.tolist(), inside.tolist(), strict=True)]

    # ------------------------------------------------------------------------ samples of a stream

    def _samples(self, bucket: int, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Record and epoch at positions of a bucket's stream."""
        parts, take = self.buckets[bucket].parts, self.takes[bucket]
        if len(parts) == 1 and parts[0].take == parts[0].count:
            return self._records(bucket, 0, position)
        epoch, rank = np.divmod(position, take)
        rank = permute(rank, take, self._keys("mixture", bucket, 0, epoch))
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
        keys = self._keys("records", bucket, part_number, epoch)
        return part.records(permute(place, part.count, keys)), epoch

    def _keys(self, purpose: str, bucket: int, part: int, epoch: np.ndarray) -> np.ndarray:
        name = "x".join(map(str, self.buckets[bucket].shape))
        values, inverse = np.unique(epoch, return_inverse=True)
        keys = [mix(self.seed, purpose, name, part, int(value)) for value in values]
        return np.array(keys, np.uint64)[inverse]
