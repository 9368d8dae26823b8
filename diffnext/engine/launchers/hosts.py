# SPDX-License-Identifier: Apache-2.0
"""Runs a command that starts a watcher on each of several nodes; signals and faults are those of all."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Collection, Sequence
from typing import Any

from diffnext.engine.heartbeat import Beat
from diffnext.engine.launchers import faults
from diffnext.engine.launchers.base import Job
from diffnext.engine.launchers.faults import Fault, say
from diffnext.engine.launchers.group import DIE_AFTER_S, TELL_S, Group, start
from diffnext.engine.launchers.link import Hub
from diffnext.utils.temporary import temporary_folder

START_S = 300.0  # from the first node that has come to the last: slow disks import slowly
KILL_S = 5.0 + DIE_AFTER_S + TELL_S  # for watchers to end their processes and to go
LAST_WORDS_S = 2.0  # for what nodes told before the command that reaches them ended
NODE = "diffnext.engine.launchers.node"


def run_hosts(reach: Sequence[str], job: Job, hosts: Sequence[str], devices: str) -> int:
    """Run the processes of a job on several nodes, and leave no one behind on any of them.

    A signal to this command is one to the watchers: all processes agree on the step to end after.
    A second one, a fault on a node, or a node that does not come or is gone ends all nodes. If this
    command is gone, the nodes end in order.

    Args:
        reach: a command that runs the Python module after it, with its arguments, on each node.
        hosts: their names.
        devices: CUDA_VISIBLE_DEVICES of the processes of each.

    Returns:
        As `run_group`; of several faults the code of the one that the others follow from.
    """
    hub = Hub()
    word = hub.word(job.command, job.num_processes, devices)
    with temporary_folder() as folder:
        command = [*reach, NODE, str(word)]
        child = start(command, folder, ignored=[signal.SIGTERM])  # we hand it on to the watchers
        try:
            return Hosts(child, folder, hub, hosts).wait()
        finally:
            hub.close()


class Hosts(Group):
    """A running command that has started watchers on several nodes.

    Args:
        child: the command, leader of its own process group.
        folder: nothing of other nodes' processes is in there.
        hub: where the watchers report.
        hosts: names of the nodes.
    """

    def __init__(
        self, child: subprocess.Popen, folder: str, hub: Hub, hosts: Sequence[str]
    ) -> None:
        super().__init__(child, folder, grace_s=KILL_S)
        self.hub = hub
        self.hosts = hosts
        self.came: set[int] = set()
        self.codes: dict[int, int] = {}  # exit codes of nodes
        self.found: dict[int, Fault] = {}  # by node, in the order of news; times are of our clock
        self.late_at = float("inf")  # when a node that has not come is missed
        self.end_at = float("inf")  # when nodes that have no fault are ended, because another has
        self.ended = False  # whether all were told to end at once
        self.before = 0  # largest code until then: later ones tell of our signal

    # --------------------------------------------------------------------------------- signals

    def _obey(self, beats: Sequence[Beat]) -> None:
        nodes = self.hub.nodes()
        if len(self.received) > 1 or not (self.asked or nodes):
            self._end_all()
        elif not self.asked:
            self.asked = True
            for node in nodes:
                self.hub.send(node, signal=self.received[0][0], times=1)

    def _end_all(self, *, spared: Collection[int] = ()) -> None:
        if self.ended:
            return
        self.ended = True
        self.before = max(self.codes.values(), default=0)
        for node in set(self.hub.nodes()) - set(spared):
            self._end(node)
        self.deadline = time.monotonic() + (KILL_S if self.came else 0.0)

    def _end(self, node: int) -> None:
        number = self.received[-1][0] if self.received else signal.SIGTERM
        self.hub.send(node, signal=number, times=2)  # as for one command: the second ends at once

    # ---------------------------------------------------------------------------------- faults

    def _find_fault(self, beats: Sequence[Beat]) -> None:
        self._hear_all()
        if self.child.poll() is not None:
            deadline = time.monotonic() + LAST_WORDS_S
            while self.came - self.codes.keys() and time.monotonic() < deadline:
                time.sleep(0.05)
                self._hear_all()
        elif time.monotonic() > self.end_at:
            self._end_all(spared=self.found)  # which end by themselves, and tell by what
        elif time.monotonic() > self.late_at:
            self._miss()

    def _hear_all(self) -> None:
        for node, message in self.hub.news():
            if message is None:
                self._lose(node)
            else:
                self._hear(node, message)

    def _hear(self, node: int, message: dict[str, Any]) -> None:
        now = time.monotonic()
        if "host" in message:
            self._welcome(node)
        elif "fault" in message:
            self.found[node] = faults.from_message(message["fault"])
        else:
            self.codes[node] = message["code"]
        if self.found or any(self.codes.values()):
            self.end_at = min(self.end_at, now + DIE_AFTER_S)

    def _welcome(self, node: int) -> None:
        self.came.add(node)
        if self.ended:
            self._end(node)
        if len(self.came) == len(self.hosts):
            self.late_at = float("inf")
        elif len(self.came) == 1:
            self.late_at = time.monotonic() + START_S

    def _miss(self) -> None:
        self.late_at = float("inf")
        missing = [name for node, name in enumerate(self.hosts) if node not in self.came]
        say(f"error: after {START_S:.0f} s nothing has come from {', '.join(missing)}; ending all")
        self._end_all()

    def _lose(self, node: int) -> None:
        """The line to a node is cut; after its last word it should be."""
        if node not in self.codes:
            say(f"error: {self.hosts[node]} is gone, or what watches it; ending all")
            self.codes[node] = 1
            self._end_all()

    def _code(self) -> int:
        if self.found:
            return self._code_of_first()
        codes = list(self.codes.values())
        if len(codes) < len(self.hosts):
            codes.append(max(self.child.returncode, 0) or 1)
        if self.received and (any(codes) or self.ended):
            return 128 + self.received[-1][0]
        if self.ended:
            return self.before or 1
        return max(codes)

    def _code_of_first(self) -> int:
        first = faults.earliest(list(self.found.values()))
        node = next(node for node, fault in self.found.items() if fault is first)
        code = self.codes.get(node) or first.code or 1
        alone = any(other != code for other in self.codes.values())
        # those that refuse together have said why
        if len(self.hosts) > 1 and (alone or not first.told):
            say(f"error: it began on {self.hosts[node]}: {first.text.removeprefix('error: ')}")
        return code
