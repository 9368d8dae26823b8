# SPDX-License-Identifier: Apache-2.0
"""Runs torchrun on one of several nodes; their launchers tell each other of faults.

Without that, a node whose processes lose the others could not say why. The launcher of the first process is
the hub; the processes, which know each other, bring its word to the launchers of all nodes.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffnext.distributed import launched
from diffnext.engine.heartbeat import FOLDER, HUNG, Beat, read_beats
from diffnext.engine.launchers import faults
from diffnext.engine.launchers.faults import Fault, say
from diffnext.engine.launchers.group import DIE_AFTER_S, Group, start
from diffnext.engine.launchers.link import Hub, Link, Word
from diffnext.utils.files import replacing
from diffnext.utils.temporary import temporary_folder

NEWS_S = 5.0  # after a fault here, for news of one that it follows from
OWN, FIRST = "own_word.txt", "first_word.txt"  # of this node's launcher, and of the first process's


def own_word() -> str:
    """The word of the launcher that has started this process; "" if it has none to give."""
    path = Path(os.environ.get(FOLDER, ""), OWN)
    return path.read_text() if os.environ.get(FOLDER) and path.exists() else ""


def put_first(word: str) -> None:
    """Bring the launcher of this node the word of the first process's; "" if that has none."""
    if word and own_word() and launched.local_rank() == 0:
        with replacing(Path(os.environ[FOLDER], FIRST), durable=False) as draft:
            draft.write_text(word)


def run_peers(command: Sequence[str]) -> int:
    """As `run_group`, on one of several nodes: a fault on another one is named, and ends this one too."""
    hub = Hub()
    threading.Thread(target=relay, args=(hub,), name="diffnext-relay", daemon=True).start()
    with temporary_folder() as folder:
        Path(folder, OWN).write_text(str(hub.word([], 0, "")))
        child = start(command, folder)
        try:
            return Peers(child, folder, hub).wait()
        finally:
            hub.close()


def relay(hub: Hub) -> None:
    """Tell all other nodes of the fault that one has told, until the hub is closed.

    At once: times in it count from when it was told.
    """
    while (told := hub.wait_for_news()) is not None:
        node, message = told
        if message is not None and "fault" in message:
            for other in set(hub.nodes()) - {node}:
                hub.send(other, fault=message["fault"])


class Peers(Group):
    """A running command with its processes, and a line to the launchers of other nodes.

    Args:
        child: the command, leader of its own process group.
        folder: where its processes leave their signs of life.
        hub: where the launchers of all nodes report, if the first process is on this node.
    """

    def __init__(self, child: subprocess.Popen, folder: str, hub: Hub) -> None:
        super().__init__(child, folder, grace_s=20.0, report=self._tell)
        self.hub = hub
        self.link: Link | None = None
        self.joined = False  # or about to be
        self.found: list[Fault] = []  # of all nodes, in the order of news; times are of our clock
        self.news_until = 0.0

    def _look(self) -> None:
        self._meet()
        super()._look()

    def _meet(self) -> None:
        """Get in touch with the hub, once it is known; it may take its time to answer."""
        first = Path(self.folder, FIRST)
        if not self.joined and first.exists():
            self.joined = True
            word = Word.read(first.read_text())
            threading.Thread(target=self._join, args=(word,), daemon=True).start()

    def _join(self, word: Word) -> None:
        node = min(beat.rank for beat in read_beats(self.folder))
        try:
            link = Link(word, node)
        except ConnectionError as error:
            say(f"faults of other nodes will not be told here: {error}")
            return
        link.listen(self._hear, lost=lambda: None)
        self.link = link
        if self.fault is not None:  # which came first
            link.tell(fault=faults.to_message(self.fault))

    def _tell(self, fault: Fault) -> None:
        self.found.append(fault)
        self.news_until = time.monotonic() + NEWS_S
        if self.link is not None:
            self.link.tell(fault=faults.to_message(fault))

    def _hear(self, message: dict[str, Any]) -> None:
        self.found.append(faults.from_message(message["fault"]))

    def _find_fault(self, beats: Sequence[Beat]) -> None:
        super()._find_fault(beats)
        ending = self.deadline != float("inf") or len(self.received) > 1
        if self.fault is None and self.found and not ending and self.child.poll() is None:
            self._follow(self.found[0], beats)

    def _follow(self, fault: Fault, beats: Sequence[Beat]) -> None:
        """End the processes of this node because of another one's."""
        self.fault = fault
        if not fault.told:
            say(f"error: {fault.text.removeprefix('error: ')}; ending the processes of this node")
        if fault.code == HUNG:
            faults.print_stacks(beats, self.folder)
        self.deadline = time.monotonic() + (0.0 if fault.code == HUNG else DIE_AFTER_S)

    def _code_of_fault(self, fault: Fault, code: int) -> int:
        code = super()._code_of_fault(fault, code)
        self._meet()
        while self.joined and time.monotonic() < self.news_until and self._waits(fault):
            time.sleep(0.05)
        first = self._first()
        if first.beat.rank != fault.beat.rank and not (first.told and fault.told):
            say(f"error: it began on another node: {first.text.removeprefix('error: ')}")
        return code

    def _waits(self, fault: Fault) -> bool:
        """Whether this fault may follow from one of another node, or other nodes wait for this hub's news."""
        ours = self._first().beat.rank == fault.beat.rank
        follows = bool(fault.beat.error) or fault.code == HUNG
        return (ours and follows) or len(self.hub.nodes()) > 1

    def _first(self) -> Fault:
        return faults.earliest(list(self.found))
