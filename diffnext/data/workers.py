# SPDX-License-Identifier: Apache-2.0
"""Work in processes that may hang or crash: each call has a time limit, and costs itself alone.

A worker is a fresh interpreter that imports the function it is for and nothing else of the caller
(neither its main module nor torch). Calls and results go through its standard input and output;
arrays travel beside the pickle, straight into the memory that the caller keeps them in. Through a
pipe of 1 MiB that was as fast as shared memory, 12 ms for 36 MB, and it needs no /dev/shm.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import queue
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

PIPE_BYTES = 1 << 20
START_S = 60.0  # an interpreter that has not come up by then will not
SIZE = struct.Struct("<Q")
PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from diffnext.data import workers; workers.serve(float(sys.argv[1]))"
)


class WorkError(Exception):
    """A call that gave no result; the message is the whole reason."""


class Pool:
    """Processes that call one function; results are futures.

    Args:
        work: a function that can be imported by its name; its arguments and results are pickled.
        workers: processes; 0 calls it here, when it is submitted, and without a time limit.
        limit_s: seconds that a call may take before its process is killed.
    """

    def __init__(self, work: Callable[[Any], Any], *, workers: int, limit_s: float) -> None:
        self._work = work
        self._workers = [Worker(work, limit_s) for _ in range(workers)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers) if workers else None

    def submit(self, argument: Any) -> Future:
        """Call `work(argument)`; what it raises comes out of the future as a WorkError."""
        if self._threads is not None:
            return self._threads.submit(self._call, argument)
        done: Future = Future()
        try:
            done.set_result(attempt(self._work, argument))
        except WorkError as error:
            done.set_exception(error)
        return done

    def close(self) -> None:
        """End all processes, those at work too, and drop what was not begun."""
        if self._threads is None:
            return
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()
        self._threads.shutdown()
        for worker in self._workers:
            worker.end()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, argument: Any) -> Any:
        worker = self._idle.get()
        try:
            return worker(argument)
        finally:
            self._idle.put(worker)


class Worker:
    """One process, begun at the first call and replaced after a call that killed it."""

    def __init__(self, work: Callable[[Any], Any], limit_s: float) -> None:
        self._work, self._limit_s = work, limit_s
        self._process: subprocess.Popen | None = None
        self._stopped = False

    def __call__(self, argument: Any) -> Any:
        """Return `work(argument)`.

        Raises:
            WorkError: it raised something, took too long, or took the process down.
            ValueError: no process can be started.
        """
        process = self._started()
        try:
            _send(process.stdin, argument)
            result = _receive(process.stdout, time.monotonic() + self._limit_s)
        except TimeoutError:
            self.end()
            raise WorkError(f"timed out after {self._limit_s:g} s") from None
        except (EOFError, OSError):
            raise WorkError(f"the decoder {self._fate()}") from None
        if isinstance(result, _Raised):
            raise WorkError(result.reason)
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
                _send(self._process.stdin, self._work)
                _receive(self._process.stdout, time.monotonic() + START_S)
            except (EOFError, OSError, TimeoutError) as error:
                raise ValueError(
                    f"a decode worker cannot be started: {sys.executable} {self._fate()}; what it "
                    "said is above; with 0 workers this process decodes"
                ) from error
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

    def __init__(self, reason: str) -> None:
        self.reason = reason


def attempt(work: Callable[[Any], Any], argument: Any) -> Any:
    """Return `work(argument)`; whatever it raises becomes a WorkError, as media are of any kind."""
    try:
        return work(argument)
    except Exception as error:
        raise WorkError(f"{type(error).__name__}: {error}") from error


def serve(limit_s: float) -> None:
    """The life of a worker: read what to call, then call it until the caller goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the caller's to end us
    calls = os.fdopen(os.dup(0), "rb", buffering=0)
    results = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not come between the results
    work = _receive(calls)
    _send(results, None)
    while True:
        try:
            argument = _receive(calls)
        except EOFError:
            return
        signal.alarm(int(2 * limit_s) + 10)  # a caller that was killed no longer watches the time
        try:
            result = attempt(work, argument)
        except WorkError as error:
            result = _Raised(str(error))
        signal.alarm(0)
        with contextlib.suppress(BrokenPipeError):  # the next read says that the caller is gone
            _send(results, result)


def _start(limit_s: float) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, str(limit_s), *sys.path]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0)
    with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux, within its limits
        import fcntl

        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return process


# --------------------------------------------------------------------------------------- messages


def _send(stream: io.RawIOBase, value: Any) -> None:
    """A pickle and its arrays: number of parts, size of each, then the parts themselves."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    sizes = b"".join(SIZE.pack(len(part)) for part in parts)
    for part in (memoryview(SIZE.pack(len(parts)) + sizes), *parts):
        while part:
            part = part[stream.write(part) :]


def _receive(stream: io.FileIO, deadline: float = math.inf) -> Any:
    """Read what `_send` wrote.

    Raises:
        TimeoutError: it was not complete by `deadline`, of time.monotonic().
        EOFError: the process has ended.
    """
    (count,) = SIZE.unpack(_read(stream, SIZE.size, deadline))
    sizes = _read(stream, count * SIZE.size, deadline)
    parts = [_read(stream, size, deadline) for (size,) in SIZE.iter_unpack(sizes)]
    return pickle.loads(parts[0], buffers=parts[1:])


def _read(stream: io.FileIO, size: int, deadline: float) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        if deadline < math.inf:
            _wait(stream, deadline)
        count = stream.readinto(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


def _wait(stream: io.FileIO, deadline: float) -> None:
    poll = select.poll()  # unlike select, for descriptors of any number
    poll.register(stream, select.POLLIN)
    if not poll.poll(max(0.0, 1e3 * (deadline - time.monotonic()))):
        raise TimeoutError
