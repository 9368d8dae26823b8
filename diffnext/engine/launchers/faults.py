# SPDX-License-Identifier: Apache-2.0
"""Which process of a run has died or stands still, read from their signs of life."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from diffnext.engine.heartbeat import HUNG, PHASES, STACKS, Beat, hung, stacks_path
from diffnext.utils.streams import lead_nowhere

CODES = "codes.json"  # where a launcher notes the exit codes of processes, by rank


@dataclass(frozen=True)
class Fault:
    """What ends a run before its time."""

    beat: Beat  # of the process that began it
    text: str
    code: int = 0  # exit code of the run; 0 where that of the process is not known
    told: bool = False  # whether the process has said itself why it ended
    stopped: bool = False  # whether it does nothing at all, and not only its loop


def say(text: str) -> None:
    """Tell whoever has started the run; no failure where nobody reads it any more."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        lead_nowhere(sys.stderr)


def alive(beat: Beat) -> bool:
    """Whether a process is there, and more than an entry that its parent has not read yet."""
    try:
        return psutil.Process(beat.pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def find_death(beats: Sequence[Beat]) -> Fault | None:
    """The process that went first, by its last sign, if one has gone and not in order."""
    gone = [beat for beat in beats if beat.code or (beat.state != "ended" and not alive(beat))]
    if not gone:
        return None
    first = min(gone, key=_went)
    if first.error:
        return Fault(first, f"{first} failed {first.place}: {first.error}", first.code)
    if first.code:
        text = f"{first} ended with exit code {first.code}, {first.place}"
        return Fault(first, text, first.code, told=True)
    return Fault(first, f"{first} is gone, last seen {first.place}")


def _went(beat: Beat) -> tuple[bool, float]:
    """For the order of deaths.

    One that has refused to go on may leave others behind whose last signs are older.
    """
    told = beat.code != 0 and not beat.error
    return not told, beat.written


def find_hang(beats: Sequence[Beat]) -> Fault | None:
    """The process that is furthest behind, if one has not moved for too long."""
    if not any(beat.overdue_s > 0 or _frozen(beat) for beat in beats):
        return None
    there = [beat for beat in beats if beat.state != "ended"]
    first = min(there, key=lambda beat: (not _silent(beat), *_behind(beat)))
    if _silent(first):
        return Fault(first, f"{hung(first)}; it has stopped altogether", HUNG, stopped=True)
    return Fault(first, hung(first), HUNG)


def _behind(beat: Beat) -> tuple[int, int, float]:
    """For the order of processes that stand still."""
    return beat.step, _order(beat.phase), beat.moved


def to_message(fault: Fault) -> dict[str, Any]:
    """A fault for another machine, whose clock is not this one's: its times count from now."""
    return asdict(replace(fault, beat=_later(fault.beat, -time.monotonic())))


def from_message(message: dict[str, Any]) -> Fault:
    """A fault of another machine, with times of this one's clock."""
    fault = Fault(**message | {"beat": Beat(**message["beat"])})
    return replace(fault, beat=_later(fault.beat, time.monotonic()))


def _later(beat: Beat, seconds: float) -> Beat:
    return replace(beat, moved=beat.moved + seconds, written=beat.written + seconds)


def earliest(found: Sequence[Fault]) -> Fault:
    """Of faults of several nodes, in the order of their news, the one that the others follow from.

    The times of their beats are those of one clock.
    """
    hangs = [fault for fault in found if fault.code == HUNG]
    if found[0] in hangs:
        return min(hangs, key=lambda fault: (not fault.stopped, *_behind(fault.beat)))
    deaths = [fault for fault in found if fault not in hangs]
    return min(deaths, key=lambda fault: _went(fault.beat))


def _frozen(beat: Beat) -> bool:
    """Whether even the thread that writes the signs has stopped, as in a stopped process."""
    return beat.state != "ended" and 0 < beat.limit_s < _silence_s(beat)


def _silent(beat: Beat) -> bool:
    """Whether that is so of one of those of which one stands still; signs are seconds apart at the most."""
    return _silence_s(beat) > min(10.0, beat.limit_s / 2)


def _silence_s(beat: Beat) -> float:
    return time.monotonic() - beat.written


def _order(phase: str) -> int:
    return PHASES.index(phase) if phase in PHASES else -1


def exit_code(fault: Fault, folder: str | Path) -> int | None:
    """What the launcher noted of the process; negative for a signal."""
    try:
        return json.loads(Path(folder, CODES).read_text())[str(fault.beat.rank)]
    except (OSError, ValueError, KeyError):
        return None


def in_words(code: int) -> str:
    """An exit code; that of a process that a signal has ended by the signal's name."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def print_stacks(beats: Sequence[Beat], folder: str | Path, *, wait_s: float = 2.0) -> None:
    """Ask all processes where they are, print it, and keep it in the folder of their logs."""
    if STACKS is None:
        return
    for beat in beats:
        with contextlib.suppress(ProcessLookupError):
            os.kill(beat.pid, STACKS)
    time.sleep(wait_s)
    for beat in beats:
        with contextlib.suppress(OSError):
            text = stacks_path(folder, beat.rank).read_text()
            say(f"--- stacks of {beat}, {beat.place}\n{text}")
            if beat.logs:
                stacks_path(beat.logs, beat.rank).write_text(text)
