# SPDX-License-Identifier: Apache-2.0
"""Reads batches ahead of the model, in an order that no number of processes or threads changes.

The samples of an optimizer step, its global batch, are world * accum_steps * batch_size consecutive
samples of the `Sampler`'s order. They are cut into micro-batches of batch_size; micro-batch m of
rank r is number m * world + r of them. So any layout with the same product trains on the same
samples, and, with the same batch_size, on the same micro-batches.

A loader of worker processes, as torchdata's StatefulDataLoader, would put a process boundary between
the page cache and the batch, and copy each batch through it; threads read into the batch itself.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from diffnext.data.batches import BatchReader
from diffnext.data.buckets import group
from diffnext.data.records.base import RecordReader, Times
from diffnext.data.sampler import GlobalBatch, Sampler
from diffnext.data.schema import Batch
from diffnext.utils.mixing import mix


class Loader:
    """An endless iterator over the micro-batches of one process.

    Threads read records straight into the memory of a batch; reading releases the interpreter, so
    no process stands between the page cache and the batch. A read that fails raises, in the
    consumer and with its own traceback, where its batch was due.

    Args:
        readers: the dataset, or several.
        batch_size: samples of a micro-batch.
        accum_steps: micro-batches of a process in one optimizer step.
        seed: of the order and of the choice of captions.
        rank: number of this process among those that get different data.
        world: how many these are.
        num_threads: readers ahead of the consumer; 0 reads when a batch is asked for.
        prefetch: micro-batches that are read ahead, two for each thread if not given: what lies
            longer has left the processor's cache when it is used, and its memory when it is filled.
        weights: how often each dataset passes in an epoch, 1 each if not given.
        short_caption: probability that a sample is trained on its short caption.
        pin_memory: make batches in page-locked memory.
        verify: compare each record with its checksum, if it has one.
        on_damage: what becomes of a damaged record: "error" names it and stops; "skip" tells of it,
            and the next record of its dataset and shape stands in for it, in any layout the same.

    Raises:
        ValueError: sizes below 1, a rank outside of the world, a dataset without moments, another
            `on_damage`.
    """

    def __init__(
        self,
        readers: RecordReader | Sequence[RecordReader],
        *,
        batch_size: int,
        accum_steps: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        num_threads: int = 4,
        prefetch: int | None = None,
        weights: Sequence[float] | None = None,
        short_caption: float = 0.5,
        pin_memory: bool = False,
        verify: bool = True,
        on_damage: str = "error",
    ) -> None:
        self.readers = list(readers) if isinstance(readers, list | tuple) else [readers]
        _check(self.readers, batch_size, accum_steps, rank, world)
        self.batch_size = batch_size
        self.accum_steps = accum_steps
        self.seed = seed
        self.rank = rank
        self.world = world
        self.num_threads = num_threads
        self.prefetch = max(1, 2 * num_threads if prefetch is None else prefetch)
        self.wait_s = 0.0  # seconds that the consumer has waited for data, since the start
        size = world * accum_steps * batch_size
        buckets = group(self.readers, weights)
        self.sampler = Sampler(buckets, global_batch=size, seed=seed)
        self.buckets = self.sampler.buckets
        self._batches = BatchReader(
            self.readers,
            self.buckets,
            seed=seed,
            short_caption=short_caption,
            pin_memory=pin_memory,
            verify=verify,
            on_damage=on_damage,
        )
        self._taken = 0  # micro-batches that the consumer has
        self._due: deque[Future[Batch]] = deque()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def times(self) -> Times:
        """What reading took since the start, summed over the threads and with what is read ahead."""
        return self._batches.times

    @property
    def damaged(self) -> int:
        """Samples that another record stood in for, those read ahead included."""
        return self._batches.damaged

    @property
    def step(self) -> int:
        """Optimizer steps whose data the consumer has taken, one that is begun included."""
        return -(-self._taken // self.accum_steps)

    @property
    def epoch(self) -> int:
        """Epoch of the step that comes next, or is being taken."""
        return self.sampler.epoch_of(self._taken // self.accum_steps)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            batch = (
                self._next_ahead()
                if self.num_threads
                else self._batches.read(*self._plan(self._taken))
            )
        except BaseException:
            self._stop_reading()  # asked again, it reads the same batch again
            raise
        finally:
            self.wait_s += time.perf_counter() - start
        self._taken += 1
        return batch

    def _next_ahead(self) -> Batch:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="diffnext-read")
        while len(self._due) < self.prefetch:
            plan = self._plan(self._taken + len(self._due))
            self._due.append(self._pool.submit(self._batches.read, *plan))
        batch = self._due.popleft().result()
        plan = self._plan(self._taken + 1 + len(self._due))
        self._due.append(self._pool.submit(self._batches.read, *plan))
        return batch

    def _plan(self, number: int) -> tuple[GlobalBatch, slice]:
        """Global batch and the rows of it that are this process's micro-batch `number`."""
        step, micro = divmod(number, self.accum_steps)
        first = (micro * self.world + self.rank) * self.batch_size
        return self.sampler[step], slice(first, first + self.batch_size)

    def _stop_reading(self) -> None:
        for future in self._due:
            future.cancel()
        self._due.clear()

    def close(self) -> None:
        """Stop reading ahead, wait for the threads, close the files."""
        self._stop_reading()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        for reader in self.readers:
            reader.close()

    # ------------------------------------------------------------------------------ position

    def state_dict(self) -> dict[str, Any]:
        """What the consumer has taken, whatever was read ahead. The same on each process.

        Raises:
            RuntimeError: asked for in the middle of an optimizer step.
        """
        step, micro = divmod(self._taken, self.accum_steps)
        if micro:
            raise RuntimeError(
                f"{micro} of {self.accum_steps} micro-batches of step {step} are taken; the "
                "loader's position is defined between optimizer steps"
            )
        return {"step": step, **self._order()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was made, with any layout of the same global batch.

        Raises:
            ValueError: the order is another one: seed, global batch or datasets differ.
        """
        here = self._order()
        wrong = [f"{k} was {state.get(k)}, is {here[k]}" for k in here if state.get(k) != here[k]]
        if wrong:
            raise ValueError(
                f"the position in the data belongs to another order: {'; '.join(wrong)}. Restore "
                "these, or begin a new order by leaving out the loader's state"
            )
        self._stop_reading()
        self._taken = int(state["step"]) * self.accum_steps

    def _order(self) -> dict[str, Any]:
        """All that the order of samples depends on."""
        content = [(b.shape, [(p.start, p.count, p.take) for p in b.parts]) for b in self.buckets]
        return {
            "seed": self.seed,
            "global_batch": self.sampler.global_batch,
            "records": [len(reader) for reader in self.readers],
            "buckets": mix(repr(content)),
        }


def _check(
    readers: Sequence[RecordReader], batch_size: int, accum_steps: int, rank: int, world: int
) -> None:
    if min(batch_size, accum_steps, world) < 1 or not 0 <= rank < world:
        raise ValueError(
            f"batch_size {batch_size}, accum_steps {accum_steps} and world {world} are at least 1, "
            f"rank {rank} is below world"
        )
    for reader in readers:
        if reader.fields.get("moments") != "BYTES":
            held = dict(reader.fields)
            raise ValueError(f"{reader.path} has no field 'moments' of type BYTES, only {held}")
