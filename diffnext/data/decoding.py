# SPDX-License-Identifier: Apache-2.0
"""Media decoded ahead of the autoencoder by worker processes, in order, within a bound of memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from diffnext.data import media
from diffnext.data.location import Fetched, Location
from diffnext.data.motion import motion_score
from diffnext.data.views import View
from diffnext.data.worker import WorkError
from diffnext.data.workers import Pool

T = TypeVar("T")

AHEAD_BYTES = 1 << 30  # of frames that wait for the autoencoder
LIMIT_S = 120.0  # for one medium
AHEAD = 1024  # media; more would not keep the workers busier
PATIENCE_S = 5.0  # that one medium may hold up others which are done


@dataclass(frozen=True)
class Order:
    """What a worker does with one medium.

    Args:
        views: what is cut out of it, all from one decode.
        stamp: size and time of change when the build was planned.
        hashed: whether the sha256 of its bytes is wanted.
        scored: whether a motion score of each view is wanted.
    """

    location: Location
    views: tuple[View, ...]
    stamp: tuple[int, int]
    hashed: bool = False
    scored: bool = False

    @property
    def num_bytes(self) -> int:
        """Size of the frames that will come back."""
        return sum(view.num_bytes for view in self.views)


@dataclass(frozen=True)
class Decoded:
    """What came of an order."""

    clips: list[np.ndarray]  # one a view: (T, H, W, 3) uint8, contiguous
    content: str  # sha256; "" where it was not wanted
    flows: list[float | None]  # motion scores, one a view; None where they were not wanted
    seconds: float  # that it took


def decode(order: Order) -> Decoded:
    """Decode a medium; runs in a worker.

    Raises:
        OSError, ValueError: it cannot be decoded, or it is not the file of the plan any more.
    """
    start = time.perf_counter()
    location = order.location
    if location.local_path() is None:
        location = Fetched(location, location.read_bytes())  # once for all that follows
    content = location.digest() if order.hashed else ""
    medium = media.probe(location)
    clips = [np.ascontiguousarray(clip) for clip in media.read(medium, order.views)]
    flows = [
        _flow(medium, view, clip) if order.scored else None
        for view, clip in zip(order.views, clips, strict=True)
    ]
    if order.location.stamp() != order.stamp:
        raise ValueError("it was changed after the build was planned; the next build takes it")
    return Decoded(clips, content, flows, time.perf_counter() - start)


def _flow(medium: media.Probe, view: View, clip: np.ndarray) -> float:
    if medium.video is None:
        return 0.0
    return motion_score(clip, medium.video.times_s[list(view.frame_ids)])


def decode_ahead(
    orders: Iterable[tuple[T, Order]],
    *,
    workers: int,
    limit_s: float = LIMIT_S,
    ahead_bytes: int = AHEAD_BYTES,
    work: Callable[[Order], Any] = decode,
) -> Iterator[tuple[T, Decoded | WorkError]]:
    """Yield what came of each order, with what it was paired with, in the order of the orders.

    One that holds up others, which are done, for more than `PATIENCE_S` seconds is set aside and
    comes when it is done: a file server that hangs stalls one worker and not the build.

    Args:
        workers: processes that decode; 0 decodes here, one by one and without a time limit.
        limit_s: seconds that a medium may take.
        ahead_bytes: size of the frames that may be ready or in work before they are asked for; one
            medium may be larger.
    """
    window: _Window[T] = _Window(ahead_bytes if workers else 0)
    rest = iter(orders)
    coming = next(rest, None)
    with Pool(work, workers=workers, limit_s=limit_s) as pool:
        while coming or window:
            while coming and window.has_room(coming[1].num_bytes):
                tag, order = coming
                window.add(tag, order.num_bytes, pool.submit(order))
                coming = next(rest, None)
            tag, future = window.take()
            yield tag, _outcome(future)


def _outcome(future: Future) -> Decoded | WorkError:
    """What came of a call. Errors of the machinery, not of the medium, are raised."""
    error = future.exception()
    return error if isinstance(error, WorkError) else future.result()


class _Window(Generic[T]):
    """Calls in order; those that hold up others are set aside.

    Args:
        most_bytes: size of the results that may be in it, unless it is one alone.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._queue: deque[tuple[T, int, Future]] = deque()
        self._late: list[tuple[T, int, Future]] = []

    def __len__(self) -> int:
        return len(self._queue) + len(self._late)

    def has_room(self, num_bytes: int) -> bool:
        """Whether a call with a result of this size can be taken up; the first one always can."""
        return not self or (len(self) < AHEAD and self._bytes + num_bytes <= self._most_bytes)

    def add(self, tag: T, num_bytes: int, future: Future) -> None:
        self._queue.append((tag, num_bytes, future))
        self._bytes += num_bytes

    def take(self) -> tuple[T, Future]:
        """Wait for the next one that is done, and give it away."""
        while (found := self._done()) is None:
            self._wait()
        tag, num_bytes, future = found
        self._bytes -= num_bytes
        return tag, future

    def _done(self) -> tuple[T, int, Future] | None:
        for place, (_, _, future) in enumerate(self._late):
            if future.done():
                return self._late.pop(place)
        if self._queue and self._queue[0][-1].done():
            return self._queue.popleft()
        return None

    def _wait(self) -> None:
        """For the first in the queue, or one that is late; others that are done wait no longer."""
        behind = any(future.done() for _, _, future in islice(self._queue, 1, None))
        first = [future for _, _, future in (*islice(self._queue, 1), *self._late)]
        done, _ = wait(first, timeout=PATIENCE_S, return_when=FIRST_COMPLETED)
        while behind and not done and not self._queue[0][-1].done():
            self._late.append(self._queue.popleft())
