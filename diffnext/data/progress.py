# SPDX-License-Identifier: Apache-2.0
"""How fast each stage of a build is, which of them limits it, and how long it will still take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO, TypeVar

A = TypeVar("A")
Progress = Callable[[Iterable[A], int, str], Iterable[A]]
"""Wraps an iterable of known length, with a name, to show how far it is."""

LINE_EVERY_S = 30.0  # where the output is no terminal


def silent(items: Iterable[A], total: int, name: str) -> Iterable[A]:
    """A `Progress` that shows nothing."""
    return items


@dataclass
class Stage:
    """One stage of a build: what went through it, and how long it was busy with that."""

    name: str
    lanes: int = 1  # that work side by side
    samples: int = 0
    busy_s: float = 0.0

    def add(self, samples: int, busy_s: float) -> None:
        self.samples += samples
        self.busy_s += busy_s

    @contextlib.contextmanager
    def at_work(self, samples: int) -> Iterator[None]:
        """Count samples and the time that the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(samples, time.perf_counter() - start)

    @property
    def rate(self) -> float:
        """Samples a second that the stage can do; 0 if that is not known yet."""
        return self.samples * self.lanes / self.busy_s if self.busy_s else 0.0


@dataclass
class Meter:
    """The progress of a build.

    Args:
        total: samples to be built.
        total_bytes: of their frames; time is estimated by them, as samples may be of many sizes.
        workers: processes that decode.
    """

    total: int
    total_bytes: int
    workers: int = 1
    done: int = 0  # samples that were written, or failed
    done_bytes: int = 0
    start: float = field(default_factory=lambda: time.perf_counter())

    def __post_init__(self) -> None:
        self.decode = Stage("decode", max(1, self.workers))
        self.encode = Stage("encode")
        self.write = Stage("write")

    def advance(self, samples: int, num_bytes: int) -> None:
        """Count samples that are dealt with."""
        self.done += samples
        self.done_bytes += num_bytes

    @property
    def limit(self) -> str:
        """The slowest stage; "" before all have begun."""
        stages = (self.decode, self.encode, self.write)
        if not all(stage.rate for stage in stages):
            return ""
        return min(stages, key=lambda stage: stage.rate).name

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the end at the speed so far; None where nothing is done yet."""
        if not self.done_bytes:
            return None
        elapsed = time.perf_counter() - self.start
        return elapsed * (self.total_bytes - self.done_bytes) / self.done_bytes

    def __str__(self) -> str:
        stages = (self.decode, self.encode, self.write)
        words = ", ".join(f"{stage.name} {_short(stage.rate)}/s" for stage in stages)
        if self.limit:
            words += f"; {self.limit} limits"
        if self.remaining_s is not None:
            words += f"; {clock(self.remaining_s)} left"
        return words


class Display:
    """Shows a meter: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None
        self._next_line = time.perf_counter() + LINE_EVERY_S

    def __call__(self, meter: Meter) -> None:
        """Show where a build is."""
        if self._stream.isatty():
            self._show_bar(meter)
        elif time.perf_counter() >= self._next_line or meter.done == meter.total:
            self._next_line = time.perf_counter() + LINE_EVERY_S
            print(f"{meter.done} of {meter.total} samples; {meter}", file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the line of the bar."""
        if self._bar is not None:
            self._bar.close()

    def _show_bar(self, meter: Meter) -> None:
        if self._bar is None:
            from tqdm import tqdm

            form = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{postfix}]"
            self._bar = tqdm(total=meter.total, file=self._stream, bar_format=form)
        self._bar.set_postfix_str(str(meter), refresh=False)
        self._bar.update(meter.done - self._bar.n)


class Tally:
    """Counts on a terminal what is found, where nobody knows how much there is; nothing elsewhere.

    Args:
        delay_s: before it shows anything.
    """

    def __init__(self, stream: TextIO, *, delay_s: float = 1.0) -> None:
        self._stream, self._delay_s = stream, delay_s
        self._name = ""
        self._bar: Any = None

    def __call__(self, name: str) -> None:
        """Count one thing; of another name than the last, from the beginning."""
        if name != self._name:
            self.close()
            self._name, self._bar = name, self._begin(name)
        self._bar.update()

    def close(self) -> None:
        """Clear the line."""
        if self._bar is not None:
            self._bar.close()

    def _begin(self, name: str) -> Any:
        from tqdm import tqdm

        options = {"delay": self._delay_s, "file": self._stream, "unit": ""}
        return tqdm(desc=name, leave=False, disable=None, **options)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03, 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _short(rate: float) -> str:
    """Three digits, or as many as it has before the point."""
    return f"{rate:.3g}" if rate < 1000 else f"{rate:.0f}"
