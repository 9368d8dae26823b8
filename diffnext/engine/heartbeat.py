# SPDX-License-Identifier: Apache-2.0
"""Signs of life: where each process of a run is, for whoever watches it."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from diffnext.utils.files import replacing
from diffnext.utils.temporary import BEGUN, is_left

FOLDER = "DIFFNEXT_WATCH"  # environment variable by which a launcher says where beats are written
HUNG = 124  # exit code of a run that was ended because it did not move, as that of `timeout`
# of a step, in their order; hooks save and evaluate, and "saved" waits for what others save
PHASES = ("data", "loss", "update", "hooks", "saving", "saved")
EVERY_S = 0.5  # between two beats, at the most: a change of state is written at once
STACKS = getattr(signal, "SIGQUIT", None)  # a process that gets it writes the stacks of its threads


@dataclass(frozen=True)
class Beat:
    """What a process says of itself; times are those of its machine's monotonic clock, in seconds."""

    rank: int
    host: str
    pid: int
    state: str = "starting"  # then "training", at last "ended"
    step: int = 0  # the one it is in, counted from 1
    phase: str = ""  # one of PHASES
    moved: float = 0.0  # when it came there
    limit_s: float = 0.0  # how long it may stay before somebody looks; 0: for ever
    stopping: bool = False  # whether it was asked for an end
    logs: str = ""  # folder
    code: int = 0  # exit code, of one that has ended
    error: str = ""  # why, if by an error
    written: float = 0.0

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (process {self.pid})"

    @property
    def place(self) -> str:
        if self.step == 0:
            return "before the first step"
        return f"in step {self.step}" + (f" ({self.phase})" if self.phase else "")

    @property
    def overdue_s(self) -> float:
        """For how long it should have moved; negative if it is in time."""
        if self.state == "ended" or self.limit_s == 0:
            return -1.0
        return time.monotonic() - self.moved - self.limit_s


def read_beats(folder: str | Path) -> list[Beat]:
    """The last signs of all processes that write into a folder, by rank."""
    beats = []
    for path in Path(folder).glob("rank_*.json"):
        with contextlib.suppress(OSError, ValueError):  # it is being replaced, or the disk is full
            beats.append(Beat(**json.loads(path.read_text())))
    return sorted(beats, key=lambda beat: beat.rank)


class Heartbeat:
    """Writes a process's beats from a thread of its own; a context manager around the work.

    Where no launcher watches, the thread itself does: it ends a process that does not move. One whose
    launcher was killed is asked for an end, as by a signal.

    Args:
        rank: of this process.
        folder: of the beats; "" if nobody reads them.
        limit_s: how long it may take to the first step, seconds; 0: for ever.
    """

    def __init__(self, rank: int, folder: str | None = None, *, limit_s: float = 0.0) -> None:
        self.folder = os.environ.get(FOLDER, "") if folder is None else folder
        name, now = socket.gethostname(), time.monotonic()
        self.beat = Beat(rank, name, os.getpid(), moved=now, limit_s=limit_s)
        self._phase: Callable[[], str] = str
        self._stopping = False  # not in `beat`, which may be in the middle of a change
        self._end = threading.Event()
        # by a byte and not by an Event, whose lock the code under a signal handler may hold
        self._waiting, self._waking = socket.socketpair()
        self._waiting.settimeout(EVERY_S)
        self._waking.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="diffnext-heartbeat", daemon=True)
        self._stacks = None
        self._is_watched = Path(self.folder).name.startswith(BEGUN)  # by who holds the folder

    def train(self, phase: Callable[[], str], *, logs: str | Path) -> None:
        """The loop begins.

        Args:
            phase: tells what the loop is doing.
            logs: folder that stacks are written to.
        """
        self._phase = phase
        self.beat = replace(self.beat, state="training", logs=str(logs), moved=time.monotonic())
        self._wake()

    def move(self, step: int, *, limit_s: float) -> None:
        """The loop has come to another place, where it should stay no longer than `limit_s`."""
        self.beat = replace(self.beat, step=step, moved=time.monotonic(), limit_s=limit_s)

    def stopping(self) -> None:
        """This process was asked for an end. Safe in a signal handler."""
        self._stopping = True
        self._wake()

    def __enter__(self) -> Heartbeat:
        if STACKS is not None:
            if self.folder:
                self._stacks = open(stacks_path(self.folder, self.beat.rank), "w")
            faulthandler.register(STACKS, file=self._stacks or sys.__stderr__, all_threads=True)
        self._write()
        self._thread.start()
        return self

    def end(self, code: int, error: str = "") -> None:
        """The work is over, with this exit code."""
        self.beat = replace(self.beat, state="ended", code=code, error=error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is not None:
            self.end(1, f"{kind.__name__}: {error}")
        self._end.set()
        self._wake()
        self._thread.join()
        self._waiting.close()
        self._waking.close()
        self._write()
        if STACKS is not None:
            faulthandler.unregister(STACKS)
        if self._stacks is not None:
            self._stacks.close()

    def _run(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                self._waiting.recv(64)
            if self._is_watched and is_left(self.folder):
                self._part_with_launcher()
            if self.folder:
                self._write()
            elif self.beat.overdue_s > 0:
                self._give_up()

    def _wake(self) -> None:
        """Let the thread write now. Safe in a signal handler."""
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
            self._waking.send(b".")

    def _now(self) -> Beat:
        now = time.monotonic()
        return replace(self.beat, phase=self._phase(), stopping=self._stopping, written=now)

    def _write(self) -> None:
        if not self.folder:
            return
        beat = self._now()
        path = Path(self.folder, f"rank_{beat.rank}.json")
        # a full disk is no reason to end; the folder may be gone
        with contextlib.suppress(OSError), replacing(path, durable=False) as draft:
            draft.write_text(json.dumps(asdict(beat)))

    def _part_with_launcher(self) -> None:
        """Ask this process for an end in order, as whoever started it was killed and watches no more."""
        self.folder, self._is_watched = "", False
        with contextlib.suppress(OSError):
            print(
                f"{self.beat}: the command that started the run is gone",
                file=sys.stderr,
                flush=True,
            )
        if not self._stopping:  # a second signal would cut its checkpoint off
            os.kill(os.getpid(), signal.SIGTERM)

    def _give_up(self) -> None:
        """End this process; whoever reads what it says may have gone, and the disk may be full."""
        beat = self._now()
        with contextlib.suppress(OSError):
            if beat.logs:
                with open(stacks_path(beat.logs, beat.rank), "w") as file:
                    faulthandler.dump_traceback(file, all_threads=True)
        with contextlib.suppress(OSError):
            print(hung(beat), file=sys.stderr, flush=True)
            faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        os._exit(HUNG)


def hung(beat: Beat) -> str:
    """Of a process that does not move."""
    seconds = time.monotonic() - beat.moved
    return (
        f"error: {beat} has been {beat.place} for {seconds:.0f} s without an end, "
        f"{beat.limit_s:.0f} s are allowed (SOLVER.HANG_TIMEOUT)"
    )


def stacks_path(folder: str | Path, rank: int) -> Path:
    """Where the stacks of a process go."""
    return Path(folder, f"stacks_rank_{rank}.txt")
