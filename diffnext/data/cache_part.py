# SPDX-License-Identifier: Apache-2.0
"""One of several processes that build a cache: takes units of the plan, writes a part of the records."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace

from diffnext.data.batching import Batcher
from diffnext.data.cache import Line, Report, Sample, make_order
from diffnext.data.cache_plan import Item, Task
from diffnext.data.cache_sink import RecordSink
from diffnext.data.decoding import LIMIT_S, Order, decode_ahead
from diffnext.data.encoding import Encode
from diffnext.data.journal import Entry, Journal
from diffnext.data.leases import Leases
from diffnext.data.location import Location
from diffnext.data.parts import close_part, recorded
from diffnext.data.progress import Meter
from diffnext.data.records.layout import SHARD, index_names
from diffnext.data.records.lock import FolderLock
from diffnext.data.sources import Failure
from diffnext.data.worklist import Worklist
from diffnext.utils.files import sync_file

POLL_S = 0.5
# What a process takes ahead is lost to others that have nothing: at most so many bytes of frames, and
# this share of a small plan.
AHEAD_BYTES = 1 << 28
SHARES = 32


@dataclass(frozen=True)
class Tools:
    """What a process works with; see `cache.build`.

    Args:
        load: makes the autoencoder ready; called when there is something to encode.
    """

    load: Callable[[], Encode]
    batch_size: int = 8
    workers: int = 2
    decode_timeout_s: float = LIMIT_S


def take_part(
    work: Worklist, tools: Tools, *, show: Callable[[Meter], None] = lambda meter: None
) -> int:
    """Encode units until all are done, by whomever. Returns how many records this process wrote.

    Raises:
        OSError: the disk is full or failed; or this process was silent so long that the work was done
            without it, and is gone.
    """
    with work.members.enter() as member:
        desk = _Desk(work, work.leases(member.name), os.path.join(work.parts, member.name))
        if desk.all_done():
            return 0
        os.mkdir(desk.part)
        try:
            return _encode(work, desk, tools, show)
        finally:
            close_part(desk.part)


def _encode(work: Worklist, desk: _Desk, tools: Tools, show: Callable[[Meter], None]) -> int:
    """Round after round: all units that are to be had, to the last batch; then what others left."""
    num_bytes = sum(unit.num_bytes for unit in work.units)
    meter = Meter(work.samples, num_bytes, max(1, tools.workers))
    crowd = _Crowd(work, desk, show)
    with (
        contextlib.closing(desk),
        FolderLock(desk.part) as lock,
        RecordSink(
            desk.part,
            work.fields,
            Journal(desk.part, 0),
            lock=lock,
            stage=meter.write,
            on_written=desk.note,
        ) as sink,
    ):
        batcher: Batcher[Sample] = Batcher(tools.batch_size, [work.smallest])
        line = functools.cache(lambda: Line(work, tools.load(), sink, desk, meter, batcher))
        while not desk.all_done():
            tasks = desk.tasks(meter)
            first = next(tasks, None)
            if first is None:
                crowd.show(meter)
                time.sleep(POLL_S)
                continue
            orders = ((task, make_order(task, work)) for task in _chain(first, tasks))
            with contextlib.closing(_decode(orders, tools, num_bytes)) as decoded:
                line().run(decoded, crowd.show)
        crowd.show(meter)
    return sink.written


def _decode(orders: Iterator[tuple[Task, Order]], tools: Tools, num_bytes: int) -> Iterator:
    return decode_ahead(
        orders,
        workers=tools.workers,
        limit_s=tools.decode_timeout_s,
        ahead_bytes=min(AHEAD_BYTES, num_bytes // SHARES),
    )


def _chain(first: Task, rest: Iterator[Task]) -> Iterator[Task]:
    yield first
    yield from rest


@dataclass
class _Open:
    """A unit that this process works on."""

    left: set[int]  # tickets that are not settled
    media: list[Location]
    failures: list[tuple[int, Failure]] = field(default_factory=list)


class _Desk(Report):
    """The units that this process has, and which of their samples are settled: written, or failed.

    A unit is finished in a thread of its own, as that waits for the disk.
    """

    def __init__(self, work: Worklist, leases: Leases, part: str) -> None:
        super().__init__()
        self.leases, self.part = leases, part
        self.own: set[int] = set()  # units that this process had
        self._work = work
        self._open: dict[int, _Open] = {}
        self._dead: dict[str, frozenset[int]] = {}  # tickets in the parts of processes that died
        self._thread = ThreadPoolExecutor(1, "cache-units")
        self._ending: list[Future[None]] = []  # units that are settled and not said to be done

    def tasks(self, meter: Meter) -> Iterator[Task]:
        """Take units, one after another, as long as there are any, and yield their tasks."""
        while (claim := self.leases.claim()) is not None:
            unit, was_had = claim
            self.own.add(unit)
            info = self._work.units[unit]
            tickets = range(info.ticket, info.ticket + info.samples)
            there = self._recorded(unit) & set(tickets) if was_had else set()
            tasks = self._work.tasks(unit)
            media = [task.source.location for task in tasks]
            self._open[unit] = _Open(set(tickets) - there, media)
            meter.advance(len(there), len(there) * info.num_bytes // info.samples)
            if not self._open[unit].left:
                self._finish(unit)
            for task in tasks:
                pairs = zip(task.views, task.tickets, strict=True)
                left = [(view, ticket) for view, ticket in pairs if ticket not in there]
                if left:
                    views, tickets = zip(*left, strict=True)
                    yield replace(task, views=views, tickets=tickets)

    def _recorded(self, unit: int) -> set[int]:
        """What those wrote who had a unit before; of each it is read once, as they are dead."""
        tickets: set[int] = set()
        for name in self.leases.holders(unit) - {os.path.basename(self.part)}:
            if name not in self._dead:
                self._dead[name] = recorded(self._work, name)
            tickets |= self._dead[name]
        return tickets

    def fail(self, item: Item, failure: Failure) -> None:
        unit = self._work.unit_of(item.ticket)
        self._open[unit].failures.append((item.ticket, failure))
        self._settle(unit, item.ticket)

    def note(self, entries: Sequence[Entry]) -> None:
        """Samples are in the part."""
        for entry in entries:
            self._settle(self._work.unit_of(entry.ticket), entry.ticket)

    def _settle(self, unit: int, ticket: int) -> None:
        left = self._open[unit].left
        left.discard(ticket)
        if not left:
            self._finish(unit)

    def _finish(self, unit: int) -> None:
        """Say that a unit is done, some time soon."""
        done = self._open.pop(unit)
        failures = [[ticket, asdict(failure)] for ticket, failure in done.failures]
        while self._ending and self._ending[0].done():
            self._ending.pop(0).result()
        self._ending.append(self._thread.submit(self._end, unit, failures, done.media))

    def _end(self, unit: int, failures: list, media: list[Location]) -> None:
        """Say that a unit is done, once its records have reached the disk."""
        for name in index_names(self.part)[-1:]:
            for ending in SHARD:
                sync_file(os.path.join(self.part, name.removesuffix(".index") + ending))
        self.leases.finish(unit, json.dumps(failures).encode())
        for medium in media:
            medium.discard()

    def all_done(self) -> bool:
        """Whether no unit is left, now that those which are settled here are said to be done.

        Raises:
            OSError: it could not be said of one.
        """
        while self._ending:
            self._ending.pop(0).result()
        return self.leases.all_done()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


class _Crowd:
    """Adds to a meter what others have done."""

    def __init__(self, work: Worklist, desk: _Desk, show: Callable[[Meter], None]) -> None:
        self._work, self._desk, self._show = work, desk, show
        self._counted: set[int] = set()
        self._next = 0.0

    def show(self, meter: Meter) -> None:
        """Show where the whole build is; others are asked after in a small share of the time."""
        if (begin := time.monotonic()) >= self._next:
            news = self._desk.leases.done() - self._desk.own - self._counted
            self._counted |= news
            for unit in news:
                info = self._work.units[unit]
                meter.advance(info.samples, info.num_bytes)
            now = time.monotonic()
            self._next = now + max(POLL_S, 50 * (now - begin))
        self._show(meter)
