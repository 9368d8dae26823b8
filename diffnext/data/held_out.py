# SPDX-License-Identifier: Apache-2.0
"""A fixed choice of records that are looked at again and again, and not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from diffnext.data.batches import BatchReader
from diffnext.data.buckets import Bucket, Part, group
from diffnext.data.permutation import permute
from diffnext.data.record_digest import digest_of
from diffnext.data.records.base import RecordReader
from diffnext.data.sampler import GlobalBatch
from diffnext.data.schema import Batch
from diffnext.utils.mixing import mix


class HeldOut:
    """The same records in the same batches each time, shared out among processes.

    `digest` tells one choice of records and captions from another, wherever they lie.

    Args:
        readers: the dataset, or several.
        samples: how many records; all if there are fewer.
        batch_size: samples of a batch.
        seed: of the choice of records, and of their captions.
        short_caption, verify, on_damage: as for `Loader`.
    """

    def __init__(
        self,
        readers: Sequence[RecordReader],
        *,
        samples: int,
        batch_size: int,
        seed: int,
        short_caption: float = 0.5,
        verify: bool = True,
        on_damage: str = "error",
    ) -> None:
        buckets = group(readers)
        self._reader = BatchReader(
            readers,
            buckets,
            seed=seed,
            short_caption=short_caption,
            pin_memory=False,
            verify=verify,
            on_damage=on_damage,
        )
        chosen = _choose(sum(map(len, readers)), samples, seed)
        held = [(len(reader), digest_of(reader)) for reader in readers]
        self.digest = f"{mix(repr((held, len(chosen), seed, short_caption))):016x}"
        self._plans = [
            GlobalBatch(bucket.shape, part, np.zeros_like(part))
            for bucket in buckets
            for part in _cut(_inside(bucket, chosen), batch_size)
        ]

    def __len__(self) -> int:
        """Number of samples."""
        return sum(len(plan.index) for plan in self._plans)

    def batches(self, rank: int, world: int) -> Iterator[tuple[Batch, bool]]:
        """The batches of one process, as many as of any other, and whether each counts.

        Where they cannot be shared out evenly some processes get one that another has already; it
        does not count.
        """
        total = len(self._plans)
        for number in range(rank, -(-total // world) * world, world):
            plan = self._plans[number % total]
            yield self._reader.read(plan, slice(None)), number < total


def _choose(total: int, samples: int, seed: int) -> np.ndarray:
    """Numbers of `samples` records of `total`, rising."""
    count = min(samples, total)
    keys = np.full(count, mix(seed, "held-out"), np.uint64)
    return np.sort(permute(np.arange(count), total, keys))


def _inside(bucket: Bucket, chosen: np.ndarray) -> np.ndarray:
    """Those of the chosen records that have the bucket's shape."""
    return np.concatenate([_of(part, chosen - part.start) + part.start for part in bucket.parts])


def _of(part: Part, local: np.ndarray) -> np.ndarray:
    """Those of `local` numbers of a dataset that are of a part of it."""
    if part.members is None:
        return local[(local >= 0) & (local < part.count)]
    local = local[(local >= 0) & (local <= part.members[-1])]
    return local[part.members[np.searchsorted(part.members, local)] == local]


def _cut(index: np.ndarray, size: int) -> list[np.ndarray]:
    return [index[start : start + size] for start in range(0, len(index), size)]
