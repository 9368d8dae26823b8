# SPDX-License-Identifier: Apache-2.0
"""A process that makes calls for another, which may hang or crash in them, and how the two speak.

A worker is a fresh interpreter that imports the function it is for and nothing else of the caller
(neither its main module nor torch). Calls and results go through its standard input and output;
arrays travel beside the pickle, straight into the memory that the caller keeps them in. Through a
pipe of 1 MiB that was as fast as shared memory, 12 ms for 36 MB, and it needs no /dev/shm.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from diffnext.data.messages import receive, send, write
from diffnext.utils.malloc import keep_freed_memory

PIPE_BYTES = 1 << 20
START_S = 60.0  # an interpreter that has not come up by then will not
QUICK_S = 0.1  # a call of less is followed by one that waits in the pipe
KEPT_BYTES = 256 << 20  # of free memory that a worker keeps for the next call
SHORT_BYTES = 1 << 15  # of a call that may wait there; if the pipe were full, both ends would wait
ROOM_BYTES = 2 * SHORT_BYTES  # of a pipe in which one may; where a user has many, they are smaller
PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from diffnext.data import worker; worker.serve(float(sys.argv[1]))"
)


class WorkError(Exception):
    """A call that gave no result; the message is the whole reason.

    Args:
        kind: name of the class of what it raised; "" where its process ended.
    """

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass
class Job:
    """A call that is wanted."""

    parts: list[memoryview]  # its argument, pickled
    done: Future
    process: subprocess.Popen | None = None  # which it was sent to

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.parts))


class Worker:
    """One process, begun at the first call and replaced after a call that killed it."""

    def __init__(self, work: Callable[[Any], Any], limit_s: float) -> None:
        self._work, self._limit_s = work, limit_s
        self._process: subprocess.Popen | None = None
        self._stopped = False
        self._was_quick = False  # the last call
        self._has_room = False  # the pipe, for two short calls

    @property
    def may_wait(self) -> bool:
        """Whether the next call is chosen, and sent if it is short, before the one at work is done."""
        return self._was_quick and self._has_room

    def send(self, job: Job) -> None:
        """Have a call made, after the one at work if there is one; if it waits there already: nothing.

        Raises:
            ValueError: no process can be started.
            WorkError: none is to be started any more.
        """
        process = self._started()
        if job.process is process:
            return
        job.process = process
        with contextlib.suppress(OSError):  # of one that has ended; `receive` says how
            write(process.stdin, job.parts)

    def receive(self) -> Any:
        """Return what the earliest call gave of those that were sent.

        Raises:
            WorkError: it raised something, took too long, or took the process down.
        """
        start = time.monotonic()
        try:
            result = receive(self._process.stdout, start + self._limit_s)
        except TimeoutError:
            self.end()
            raise WorkError(f"timed out after {self._limit_s:g} s", "TimeoutError") from None
        except (EOFError, OSError):
            raise WorkError(f"the decoder {self._fate()}") from None
        self._was_quick = time.monotonic() - start < QUICK_S
        if isinstance(result, _Raised):
            raise WorkError(result.reason, result.kind)
        return result

    def stop(self) -> None:
        """Kill the process; a call that waits for it fails, and so do those to come."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """Kill the process, if there is one, and let go of its pipes."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.stdin.close()
        process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)  # one that waits for a dead file server ends when it likes

    def _started(self) -> subprocess.Popen:
        if self._stopped:
            raise WorkError("the workers were ended")
        if self._process is None:
            self._process = _start(self._limit_s)
            if self._stopped:  # while it began, when there was nothing to kill
                self._process.kill()
            try:
                send(self._process.stdin, self._work)
                receive(self._process.stdout, time.monotonic() + START_S)
            except (EOFError, OSError, TimeoutError) as error:
                raise ValueError(
                    f"a decode worker cannot be started: {sys.executable} {self._fate()}; what it "
                    "said is above; with 0 workers this process decodes"
                ) from error
            self._has_room = _pipe_bytes(self._process.stdin) >= ROOM_BYTES
        return self._process

    def _fate(self) -> str:
        """How the process ended that closed its pipes, in words."""
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(5)  # pipes are closed a moment before the end
        self.end()
        if code is None:
            return "closed its output"
        if code >= 0:
            return f"ended with exit code {code}"
        hint = ", as the kernel does where memory runs out" if code == -signal.SIGKILL else ""
        return f"crashed with signal {-code} ({signal.Signals(-code).name}){hint}"


class _Raised:
    """What `work` raised, as text: exceptions of decoders often cannot be unpickled."""

    def __init__(self, reason: str, kind: str) -> None:
        self.reason, self.kind = reason, kind


def attempt(work: Callable[[Any], Any], argument: Any) -> Any:
    """Return `work(argument)`; whatever it raises becomes a WorkError, as media are of any kind."""
    try:
        return work(argument)
    except Exception as error:
        kind = type(error).__name__
        raise WorkError(f"{kind}: {error}", kind) from error


def serve(limit_s: float) -> None:
    """The life of a worker: read what to call, then call it until the caller goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the caller's to end us
    threading.Thread(target=_end_with_caller, daemon=True).start()
    keep_freed_memory(KEPT_BYTES)
    calls = os.fdopen(os.dup(0), "rb", buffering=0)
    results = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not come between the results
    work = receive(calls)
    send(results, None)
    while True:
        try:
            argument = receive(calls)
        except EOFError:
            return
        # a caller that was killed no longer watches the time; a decoder may hold up the thread that does
        signal.alarm(int(2 * limit_s) + 10)
        try:
            result = attempt(work, argument)
        except WorkError as error:
            result = _Raised(str(error), error.kind)
        signal.alarm(0)
        with contextlib.suppress(BrokenPipeError):  # the next read says that the caller is gone
            send(results, result)


def _end_with_caller() -> None:
    """End this process when the other end of its input is closed, whatever it is at."""
    if hasattr(select, "poll"):
        ends = select.poll()
        ends.register(0, 0)  # wakes for a closed end alone
        ends.poll()
        os._exit(0)


def _start(limit_s: float) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, str(limit_s), *sys.path]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0)
    with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux, within its limits
        import fcntl

        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return process


def _pipe_bytes(pipe: io.FileIO) -> int:
    """What can be written to an empty pipe before somebody reads; 0 where the system does not tell."""
    try:
        import fcntl

        return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    except (ImportError, AttributeError, OSError):
        return 0
