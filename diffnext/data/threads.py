# SPDX-License-Identifier: Apache-2.0
"""Work in threads ahead of its consumer: in order, bounded, and with errors as results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def map_ahead(
    fn: Callable[[A], B], items: Iterable[A], *, workers: int, ahead: int
) -> Iterator[B | Exception]:
    """Yield `fn(item)` for each item in order; an exception is the result of its item.

    Args:
        workers: threads.
        ahead: results that may be ready or in work before the consumer asks for them.
    """
    pool = ThreadPoolExecutor(workers)
    queue: deque[Future] = deque()
    rest = iter(items)
    try:
        while True:
            for item in islice(rest, ahead + 1 - len(queue)):
                queue.append(pool.submit(_guarded, fn, item))
            if not queue:
                return
            yield queue.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _guarded(fn: Callable[[A], B], item: A) -> B | Exception:
    try:
        return fn(item)
    except Exception as error:  # media are of any kind: whatever a decoder raises is a finding
        return error
