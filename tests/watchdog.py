# SPDX-License-Identifier: Apache-2.0
"""Ends what a test waits for in vain: that test fails and says where its processes were, no other does."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time

import psutil
import pytest

from tests import place

SPARE_S = 60.0  # before its limit, the processes of a test are ended
STACKS_S = 10.0  # for them to write where they are
LAST_S = 300.0  # after its limit, a test that hears no signal takes the whole process along
EARLY_S = 2.0  # by which the start of a process may be told too early


class Watchdog:
    """A plugin of pytest, beside pytest-timeout, whose limit it shares."""

    def __init__(self) -> None:
        self.stderr = os.dup(2)  # that of the terminal, once tests have another

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        began, failed = time.time(), item.session.testsfailed
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()
            if item.session.testsfailed > failed:
                end(started_since(began), signal.SIGKILL)

    def pytest_enter_pdb(self):
        faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_set_timer(self, item, settings):
        if settings.method != "signal" or settings.timeout <= SPARE_S:
            return None
        faulthandler.dump_traceback_later(settings.timeout + LAST_S, exit=True, file=self.stderr)
        began = time.time()

        def hear(number, frame):
            aborted = end(started_since(began), signal.SIGABRT)
            item.add_report_section("call", "watchdog", f"ended {aborted}")
            rest = settings._replace(timeout=SPARE_S)
            item.ihook.pytest_timeout_set_timer(item=item, settings=rest)

        item.cancel_timeout = lambda: signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, hear)
        signal.setitimer(signal.ITIMER_REAL, settings.timeout - SPARE_S)
        return True


def started_since(began: float) -> list[psutil.Process]:
    """Processes that this one has started since then, those whose parents are gone too."""
    own = {process.pid: process for process in psutil.Process().children(recursive=True)}
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    for process in place.started(os.environ[place.PLACE]):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("PYTEST_XDIST_WORKER") == worker:
                own.setdefault(process.pid, process)
    return [process for process in own.values() if _since(process, began)]


def _since(process: psutil.Process, began: float) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.create_time() > began - EARLY_S
    return False


def end(processes: list[psutil.Process], number: int) -> list[str]:
    """Send a signal, then kill those that are left; returns what they were."""
    names = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            names.append(f"{process.pid}: {' '.join(process.cmdline())[:300]}")
            process.send_signal(number)
    deadline = time.monotonic() + STACKS_S
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in filter(alive, processes):
        with contextlib.suppress(psutil.Error):
            process.kill()
    return names


def alive(process: psutil.Process) -> bool:
    """By a look and not by `wait`, which would take the exit code from who has started it."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
