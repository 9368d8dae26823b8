# SPDX-License-Identifier: Apache-2.0
"""Several processes by torchrun's own machinery, on one node or several."""

from __future__ import annotations

import sys

from diffnext.engine.launchers import LAUNCHERS
from diffnext.engine.launchers.base import Job
from diffnext.engine.launchers.group import run_group
from diffnext.engine.launchers.peers import run_peers


@LAUNCHERS.register("torch")
def launch(job: Job) -> int:
    """Start `num_processes` on this node; return the exit code of the first one that failed.

    Without rendezvous options the run is of one node, on a free port. With them (--nnodes,
    --node-rank, --master-addr, --rdzv-endpoint, ...) the same command is started on each node, and
    a process that ends the run is named on all of them.
    """
    return run_peers(command_of(job)) if job.rendezvous else run_group(command_of(job))


def command_of(job: Job) -> list[str]:
    """What starts and ends with the processes of this node."""
    where = list(job.rendezvous) or ["--standalone"]
    count = f"--nproc-per-node={job.num_processes}"
    agent = [sys.executable, "-m", "diffnext.engine.launchers.agent"]
    return [*agent, *where, count, *job.command]
