# SPDX-License-Identifier: Apache-2.0
"""Groups the records of datasets by the shape of their moments: a batch takes from one group."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffnext.data.parse import moments_shape
from diffnext.data.records.base import RecordReader
from diffnext.utils.logging import logger

ROUNDED = 0.1  # of a weight; more is told


@dataclass(frozen=True)
class Part:
    """The records of one dataset that have the bucket's shape."""

    start: int  # number of the dataset's first record when all datasets are counted through
    count: int  # records
    take: int  # how many of them pass in an epoch: `count` times the dataset's weight
    members: np.ndarray | None = None  # (count,) their numbers in the dataset, rising; None: all

    def records(self, rank: np.ndarray) -> np.ndarray:
        """Numbers, through all datasets, of the part's records `rank`."""
        return self.start + (rank if self.members is None else self.members[rank].astype(np.int64))

    def after(self, index: int) -> int:
        """The part's record that follows `index`, both counted through all datasets; then the first."""
        local = index - self.start
        rank = local if self.members is None else int(np.searchsorted(self.members, local))
        return int(self.records(np.array((rank + 1) % self.count)))


@dataclass(frozen=True)
class Bucket:
    shape: tuple[int, ...]  # (2C, T, H, W)
    parts: tuple[Part, ...]  # of one dataset each, in the order of the datasets

    @property
    def take(self) -> int:
        """Samples that pass in an epoch."""
        return sum(part.take for part in self.parts)

    def after(self, index: int) -> int:
        """The next record of the same dataset and shape."""
        return self.parts[bisect_right(self.parts, index, key=lambda part: part.start) - 1].after(
            index
        )


def group(readers: Sequence[RecordReader], weights: Sequence[float] | None = None) -> list[Bucket]:
    """Sort the records into buckets, smallest shape first.

    Args:
        readers: the datasets; their records are counted through in this order.
        weights: of each dataset; 2 lets it pass twice in an epoch, 0.5 half of it. Without: 1 each.

    Raises:
        ValueError: an empty dataset, or a weight that is not above 0.
    """
    weights = [1.0] * len(readers) if weights is None else weights
    parts: dict[tuple[int, ...], list[Part]] = {}
    start = 0
    for reader, weight in zip(readers, weights, strict=True):
        if not len(reader) or not weight > 0:
            raise ValueError(f"{reader.path} has {len(reader)} records and weight {weight}")
        passing = 0
        for shape, members in reader.groups():
            count = len(reader) if members is None else len(members)
            part = Part(start, count, max(1, round(count * weight)), members)
            parts.setdefault(moments_shape(shape), []).append(part)
            passing += part.take
        _compare(reader, weight, passing)
        start += len(reader)
    return [Bucket(shape, tuple(parts[shape])) for shape in sorted(parts)]


def _compare(reader: RecordReader, weight: float, passing: int) -> None:
    """Warn where rounding, in each shape for itself, makes much of a weight."""
    passes = passing / len(reader)
    if abs(passes - weight) > ROUNDED * weight:
        logger.warning(
            "%s has weight %g and passes %.3g times in an epoch, as a whole number of records of each "
            "shape does, at least one; weights that are all ten times as large are met better",
            *(reader.path, weight, passes),
        )
