# SPDX-License-Identifier: Apache-2.0
"""Runs a command that starts the processes of a run: hands signals on, watches, leaves nobody behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil

from diffnext.engine.heartbeat import FOLDER, Beat, read_beats
from diffnext.engine.launchers import faults
from diffnext.engine.launchers.faults import Fault, say
from diffnext.engine.signals import heeded
from diffnext.utils.temporary import temporary_folder

ASK_AFTER_S = 1.0  # a signal that went to all processes needs no handing on
DIE_AFTER_S = 5.0  # for the others to end by themselves once one has died
TELL_S = 10.0  # for who has started them to note their exit codes
LOOK_EVERY_S = 0.25
NOTE_EVERY_S = 5.0
Received = tuple[int, float]  # number of a signal, and when it came
QUIET = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


def run_group(
    command: Sequence[str],
    *,
    grace_s: float = 20.0,
    echo_s: float = 0.0,
    received: list[Received] | None = None,
    report: Callable[[Fault], None] = lambda fault: None,
) -> int:
    """Run a command and all that it starts.

    The first signal asks the processes of a training run to end in order: one of them gets it, and
    they agree. There is no limit to how long their checkpoint takes. A second signal, or a signal
    before they train, ends all at once. A process that dies or stands still is named, and the others
    are ended.

    Args:
        command: program and arguments; no shell reads them.
        grace_s: how long processes that do not train have to end after a signal.
        echo_s: for how long a signal may come again and mean the same.
        received: where other threads put signals that mean this command.
        report: is told the fault that ends the run.

    Returns:
        The command's exit code, 0 after an orderly end; 128 + the signal's number if a signal has
        ended it; the code of the process that began the end; HUNG if they stood still.
    """
    with temporary_folder() as folder:
        child = start(command, folder)
        options = {"grace_s": grace_s, "echo_s": echo_s, "received": received, "report": report}
        return Group(child, folder, **options).wait()


def start(command: Sequence[str], folder: str, *, ignored: Sequence[int] = ()) -> subprocess.Popen:
    """Start a command whose processes leave their signs of life in a folder.

    Args:
        ignored: signals that it does not get, until it says otherwise.
    """
    with _ignoring([*QUIET, *ignored]):  # programs in between do not know these and would die
        return subprocess.Popen(
            list(command), start_new_session=True, env=os.environ | {FOLDER: folder}
        )


class Group:
    """A running command with its processes.

    Args:
        child: the command, leader of its own process group.
        folder: where its processes leave their signs of life.
        grace_s, echo_s, received, report: as in `run_group`.
    """

    def __init__(
        self,
        child: subprocess.Popen,
        folder: str,
        *,
        grace_s: float,
        echo_s: float = 0.0,
        received: list[Received] | None = None,
        report: Callable[[Fault], None] = lambda fault: None,
    ) -> None:
        self.child = child
        self.folder = folder
        self.grace_s = grace_s
        self.echo_s = echo_s
        self.report = report
        self.received: list[Received] = [] if received is None else received
        self.asked = False  # whether the first one was handed on, or need not be
        self.deadline = float("inf")  # when everything is ended
        self.fault: Fault | None = None
        self.killed = False  # whether the processes of the run were, after a fault
        self.known: dict[int, psutil.Process] = {}
        self.note_next = 0.0  # when to look for processes that give no sign

    def wait(self) -> int:
        """Watch until the command and all that it started have ended; return the exit code."""
        with _handling(self._receive):
            try:
                while self.child.poll() is None:
                    self._look()
                    time.sleep(0.05 if self.received else LOOK_EVERY_S)
                self._find_fault(read_beats(self.folder))
            finally:
                self._leave_nobody()
        return self._code()

    def _look(self) -> None:
        beats = read_beats(self.folder)
        self._note(beats)
        if self.received:
            self._obey(beats)
        self._find_fault(beats)
        if time.monotonic() > self.deadline:
            self._kill(beats)

    # --------------------------------------------------------------------------------- signals

    def _receive(self, number: int) -> None:
        now = time.monotonic()
        echoes = self.received and self.received[0][0] == number
        if not (echoes and now < self.received[0][1] + self.echo_s):
            self.received.append((number, now))

    def _obey(self, beats: Sequence[Beat]) -> None:
        if len(self.received) > 1:
            self._signal_all(signal.SIGKILL)
        elif not self.asked and time.monotonic() > self.received[0][1] + self._patience(beats):
            self.asked = True
            self._ask(self.received[0][0], beats)

    def _patience(self, beats: Sequence[Beat]) -> float:
        return ASK_AFTER_S if any(beat.state == "training" for beat in beats) else 0.0

    def _ask(self, number: int, beats: Sequence[Beat]) -> None:
        """Hand on the first signal, unless the processes got it themselves."""
        training = [beat for beat in beats if beat.state == "training"]
        if beats and all(beat.state == "ended" for beat in beats):
            return  # those who started them will not be long
        if not training:
            self.deadline = time.monotonic() + self.grace_s
            self._signal_all(number)
        elif not any(beat.stopping for beat in training):
            with contextlib.suppress(ProcessLookupError):
                os.kill(training[0].pid, number)

    def _signal_all(self, number: int) -> None:
        for process in self.known.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _kill(self, beats: Sequence[Beat]) -> None:
        """End all; first the processes of the run, so that who started them can tell how each ended."""
        if self.fault is None or self.killed:
            self._signal_all(signal.SIGKILL)
            return
        self.killed = True
        self.deadline = time.monotonic() + TELL_S
        for process in filter(None, [self.known.get(beat.pid) for beat in beats]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _note(self, beats: Sequence[Beat]) -> None:
        """Remember who is there, while the command runs: what has lost its parent is found no more.

        A process that is remembered is told from a later one of the same number.
        """
        new = {beat.pid for beat in beats if beat.state != "ended"} - self.known.keys()
        if not new and not self.received and time.monotonic() < self.note_next:
            return
        self.note_next = time.monotonic() + NOTE_EVERY_S
        with contextlib.suppress(psutil.NoSuchProcess):
            child = psutil.Process(self.child.pid)
            for process in [child, *child.children(recursive=True)]:
                self.known.setdefault(process.pid, process)

    def _leave_nobody(self) -> None:
        self._signal_all(signal.SIGKILL)
        psutil.wait_procs(list(self.known.values()), timeout=5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)

    # ---------------------------------------------------------------------------------- faults

    def _find_fault(self, beats: Sequence[Beat]) -> None:
        if self.fault is not None or self.deadline != float("inf") or len(self.received) > 1:
            return
        if faults.find_death(beats) is not None:
            # once more: what is gone may have written its last sign after these were read
            self.fault = faults.find_death(read_beats(self.folder))
        if self.fault is not None:
            self.report(self.fault)
            if not self.fault.told:
                say(f"error: {self.fault.text}; ending the others")
            self.deadline = time.monotonic() + DIE_AFTER_S
            return
        self.fault = faults.find_hang(beats)
        if self.fault is not None:
            self.report(self.fault)
            say(self.fault.text)
            faults.print_stacks(beats, self.folder)
            self.deadline = 0.0

    def _code(self) -> int:
        code = self.child.returncode
        if self.fault is not None:
            return self._code_of_fault(self.fault, code)
        if self.received and (code != 0 or self.deadline != float("inf")):
            return 128 + self.received[-1][0]
        return code if code >= 0 else 128 - code

    def _code_of_fault(self, fault: Fault, code: int) -> int:
        own = faults.exit_code(fault, self.folder)
        if own is not None and not fault.code:
            say(f"error: {fault.beat} ended by {faults.in_words(own)}")
        if fault.told and any(beat.code != fault.code for beat in read_beats(self.folder)):
            say(f"error: {fault.text}; the others were ended")
        code = fault.code or own or max(code, 0) or 1  # it may be us who have killed the command
        return code if code > 0 else 128 - code


@contextmanager
def _ignoring(numbers: Sequence[int]) -> Iterator[None]:
    """What is started in here ignores these signals, until it says otherwise."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _handling(handle: Callable[[int], None]) -> Iterator[None]:
    """Call `handle` with the number of each signal that asks for an end."""
    before = {number: signal.signal(number, lambda n, frame: handle(n)) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
