# SPDX-License-Identifier: Apache-2.0
"""Stands in for DeepSpeed's launcher, pdsh and two nodes: `nodes.py MODULE WORD` with a worker on each.

As on other machines, what it starts are not its children. NODES is how many of the two nodes there are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from diffnext.engine.launchers import node
from diffnext.engine.launchers.base import Job
from diffnext.engine.launchers.link import Word


def command_of(job: Job) -> list[str]:
    """The one worker of this node, in place of torchrun, whose import takes its time."""
    (rank,) = [word[-1] for word in job.rendezvous if word.startswith("--node-rank=")]
    worker, *rest = job.command
    return [sys.executable, worker, "node", rank, *rest]


def be_node(word: str, code: Path) -> None:
    """What a node does; its exit code is left in a file."""
    node.command_of = command_of
    code.with_suffix(".draft").write_text(str(node.run(Word.read(word))))
    code.with_suffix(".draft").rename(code)


def main(word: str) -> int:
    """Start both nodes, wait for them; return the largest code, as pdsh does."""
    with tempfile.TemporaryDirectory() as folder:
        codes = [Path(folder, str(number)) for number in range(int(os.environ.get("NODES", 2)))]
        for number, code in enumerate(codes):
            master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
            place = {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}
            command = ["setsid", "--fork", sys.executable, __file__, "node", word, str(code)]
            subprocess.run(command, env=os.environ | master | place, check=True)
        while not all(code.exists() for code in codes):
            time.sleep(0.05)
        return max(int(code.read_text()) for code in codes)


if __name__ == "__main__":
    if sys.argv[1] == "node":
        be_node(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(sys.argv[2]))
