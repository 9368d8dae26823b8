# SPDX-License-Identifier: Apache-2.0
"""Samples that wait until there are enough of their size for a batch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

WAITING_BYTES = 1 << 30  # of frames that may wait; then the size that has most goes without more


class Sized(Protocol):
    """What has a size in memory, as arrays have."""

    @property
    def nbytes(self) -> int: ...


S = TypeVar("S", bound=Sized)


class Batcher(Generic[S]):
    """Groups samples by bucket. The same samples in the same order give the same batches.

    Memory for encoding grows with the pixels, so a batch has as many of them as `batch_size` samples
    of the smallest bucket, or one sample if that has more.

    Args:
        batch_size: samples of the smallest bucket.
        sizes: bytes of a sample of each bucket there will be.
        waiting_bytes: of the samples that may wait.
    """

    def __init__(
        self, batch_size: int, sizes: Iterable[int], *, waiting_bytes: int = WAITING_BYTES
    ) -> None:
        self._batch_bytes = batch_size * min(sizes, default=0)
        self._most = waiting_bytes
        self._waiting: dict[Hashable, list[S]] = {}
        self._bytes = 0

    def add(self, bucket: Hashable, sample: S) -> Iterator[list[S]]:
        """Take a sample; yield the batches that are due by that."""
        waiting = self._waiting.setdefault(bucket, [])
        waiting.append(sample)
        self._bytes += sample.nbytes
        if (len(waiting) + 1) * sample.nbytes > self._batch_bytes:
            yield self._take(bucket)
        while self._bytes > self._most:
            yield self._take(max(self._waiting, key=self._held))

    def rest(self) -> Iterator[list[S]]:
        """Yield what is left, as batches that are not full."""
        while self._waiting:
            yield self._take(next(iter(self._waiting)))

    def _held(self, bucket: Hashable) -> int:
        return sum(sample.nbytes for sample in self._waiting[bucket])

    def _take(self, bucket: Hashable) -> list[S]:
        batch = self._waiting.pop(bucket)
        self._bytes -= sum(sample.nbytes for sample in batch)
        return batch
