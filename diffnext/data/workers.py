# SPDX-License-Identifier: Apache-2.0
"""Work in processes that may hang or crash: each call has a time limit, and costs itself alone."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from diffnext.data.messages import pack
from diffnext.data.worker import SHORT_BYTES, Job, Worker, WorkError, attempt


class Pool:
    """Processes that call one function; results are futures.

    A process whose calls are short is sent the next one before it is through with the last: what
    takes the caller longer to notice than to do must not keep it waiting. Should the last take long
    after all, the next one waits with it.

    Args:
        work: a function that can be imported by its name; its arguments and results are pickled.
        workers: processes; 0 calls it here, when it is submitted, and without a time limit.
        limit_s: seconds that a call may take before its process is killed.
    """

    def __init__(self, work: Callable[[Any], Any], *, workers: int, limit_s: float) -> None:
        self._work = work
        self._workers = [Worker(work, limit_s) for _ in range(workers)]
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._is_closed, self._lock = False, threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(worker,), name="worker-calls", daemon=True)
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, argument: Any) -> Future:
        """Call `work(argument)`; what it raises comes out of the future as a WorkError."""
        done: Future = Future()
        if self._workers:
            with self._lock:
                if self._is_closed:
                    raise WorkError("the workers were ended")
                self._jobs.put(Job(pack(argument), done))
            return done
        try:
            done.set_result(attempt(self._work, argument))
        except WorkError as error:
            done.set_exception(error)
        return done

    def close(self) -> None:
        """End all processes, those at work too, and drop what was not begun. Again: nothing."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._drop()
        for _ in self._workers:
            self._jobs.put(None)
        for worker in self._workers:
            worker.stop()
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.end()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait().done.cancel()

    def _run(self, worker: Worker) -> None:
        """Speak to one process, until there is nothing more to call."""
        job = self._jobs.get()
        while job is not None:
            after = self._call(worker, job)
            job = after or self._jobs.get()

    def _call(self, worker: Worker, job: Job) -> Job | None:
        """Make a call. Returns the one that this process is to make after it, if that is chosen."""
        after = None
        try:
            worker.send(job)
            if worker.may_wait:
                after = self._next()
            if after is not None and after.num_bytes <= SHORT_BYTES:
                worker.send(after)
            job.done.set_result(worker.receive())
        except Exception as error:
            job.done.set_exception(error)
        return after

    def _next(self) -> Job | None:
        """Take the next call, if there is one."""
        try:
            job = self._jobs.get_nowait()
        except queue.Empty:
            return None
        if job is None:  # the end, which `_run` is to find
            self._jobs.put(None)
        return job
