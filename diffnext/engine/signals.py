# SPDX-License-Identifier: Apache-2.0
"""Signals that ask a process to end in order. Imports no torch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

# schedulers announce the end of a job's time by one of these, SLURM by the one that --signal names
_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_MAY_BE_IGNORED = tuple(getattr(signal, n) for n in ("SIGHUP", "SIGINT") if hasattr(signal, n))
ECHO_S = 5.0  # within which a launcher hands on what its processes may have got already


def heeded() -> list[int]:
    """The signals to listen to: not those that `nohup` and `&` have made this process ignore."""
    return [
        number
        for number in SIGNALS
        if number not in _MAY_BE_IGNORED or signal.getsignal(number) is not signal.SIG_IGN
    ]


@contextmanager
def on_signals(request: Callable[[str], None], *, echo_s: float = 0.0) -> Iterator[None]:
    """Turn the first signal that asks for an end into a request; a second one ends at once.

    Main thread only.

    Args:
        request: is told the signal's name; called between two instructions of whatever runs.
        echo_s: for how long the first signal may come again and mean the same, seconds. For a process
            with a launcher, which itself ends all at once if it gets a second one.
    """
    received: list[tuple[int, float]] = []  # the first signal, and when

    def handle(number: int, frame: object) -> None:
        if received:
            first, when = received[0]
            if number == first and time.monotonic() < when + echo_s:
                return
            os._exit(128 + number)
        received.append((number, time.monotonic()))
        name = signal.Signals(number).name
        said = f"{name}: ending after this step with a checkpoint; once more ends at once\n"
        # not by print, which this may have interrupted; whoever reads may have gone, as `tee` does
        with suppress(OSError):
            os.write(2, said.encode())
        request(name)

    before = {number: signal.signal(number, handle) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
