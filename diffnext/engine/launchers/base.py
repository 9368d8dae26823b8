# SPDX-License-Identifier: Apache-2.0
"""What a launcher is told, and how one ends what it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Launcher = Callable[["Job"], int]  # runs a job to its end; returns its exit code


@dataclass(frozen=True)
class Job:
    """A script to be run by one or several processes."""

    main: Callable[[], int]  # the work itself, for a launcher that does it in this process
    command: Sequence[str]  # the script and its arguments, for one that starts others
    num_processes: int  # on this node; with a hostfile, on each node
    hostfile: str = ""  # nodes and their slots, for deepspeed
    rendezvous: Sequence[str] = ()  # options of torchrun for several nodes, such as --nnodes=2


def run_group(command: Sequence[str], *, grace_s: float = 20.0) -> int:
    """Run a command as a process group of its own, hand signals on, and leave no child behind.

    Args:
        command: program and arguments; no shell reads them.
        grace_s: how long the group has to end after a signal.

    Returns:
        The command's exit code; 128 + the signal's number if it was ended by one.
    """
    received: list[int] = []
    before = {}
    child = subprocess.Popen(list(command), start_new_session=True)

    def forward(number: int, frame: object) -> None:
        received.append(number)
        _signal_group(child.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before[number] = signal.signal(number, forward)
    try:
        code = _wait(child, received, grace_s)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _signal_group(child.pid, signal.SIGKILL)  # what the command itself has left running
    if received:
        return 128 + received[0]
    return code if code >= 0 else 128 - code


def _wait(child: subprocess.Popen, received: list[int], grace_s: float) -> int:
    deadline = None
    while child.poll() is None:
        if received and deadline is None:
            deadline = time.monotonic() + grace_s
        if deadline is not None and time.monotonic() > deadline:
            _signal_group(child.pid, signal.SIGKILL)
        time.sleep(0.05)
    if received:
        _wait_for_group(child.pid, deadline or time.monotonic() + grace_s)
    return child.returncode


def _wait_for_group(group: int, deadline: float) -> None:
    while _signal_group(group, 0) and time.monotonic() < deadline:
        time.sleep(0.05)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to every process of a group; False if there is none left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
