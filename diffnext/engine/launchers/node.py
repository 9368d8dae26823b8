# SPDX-License-Identifier: Apache-2.0
"""What DeepSpeed's launcher starts on each node: `python -m ...node WORD`.

It starts the processes of its node, watches them as on a single one, and keeps in touch with the command
that started it: signals to that command come to this one, and faults go there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from diffnext.engine.launchers.base import Job
from diffnext.engine.launchers.faults import Fault, say, to_message
from diffnext.engine.launchers.group import run_group
from diffnext.engine.launchers.link import Link, Word
from diffnext.engine.launchers.torchrun import command_of
from diffnext.engine.signals import ECHO_S

# what DeepSpeed's launcher sets, of a run that has a single process on each node
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run(word: Word) -> int:
    """Run the processes of this node to their end; return their exit code."""
    where = {name: os.environ.pop(name) for name in VARIABLES}
    try:
        link = Link(word, int(where["RANK"]))
    except ConnectionError as error:
        say(f"error: {error}")
        return 2
    received: list[tuple[int, float]] = []

    def hear(message: dict[str, Any]) -> None:
        if message["times"] > 1 or not received:  # the first one may have come here as well
            received.extend([(message["signal"], time.monotonic())] * message["times"])

    def lost() -> None:
        if not received:
            received.append((signal.SIGTERM, time.monotonic()))
            say("the command that started this run is gone: asking for an end with a checkpoint")

    def report(fault: Fault) -> None:
        link.tell(fault=to_message(fault))

    link.listen(hear, lost)
    share_machine(word)
    job = Job(
        main=lambda: 0,
        command=word.command,
        num_processes=word.num_processes,
        rendezvous=rendezvous(where),
    )
    # DeepSpeed's launcher hands on a SIGTERM that a scheduler has sent to all processes
    code = run_group(command_of(job), echo_s=ECHO_S, received=received, report=report)
    link.tell(code=code)
    link.close()
    return code


def rendezvous(where: Mapping[str, str]) -> list[str]:
    """In the words of torchrun where DeepSpeed's launcher has put this node; [] if it is the only one."""
    if where["WORLD_SIZE"] == "1":
        return []
    return [
        f"--nnodes={where['WORLD_SIZE']}",
        f"--node-rank={where['RANK']}",
        f"--master-addr={where['MASTER_ADDR']}",
        f"--master-port={where['MASTER_PORT']}",
    ]


def share_machine(word: Word) -> None:
    """Give the processes what DeepSpeed's launcher has cut down to one: GPUs; and threads, in parts."""
    os.environ["CUDA_VISIBLE_DEVICES"] = word.devices
    # torchrun would say 1, with which an optimizer offloaded to the host crawls
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // word.num_processes)))


def main(arguments: list[str]) -> int:
    """Run what the one argument says."""
    return run(Word.read(arguments[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
