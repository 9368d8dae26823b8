# SPDX-License-Identifier: Apache-2.0
"""Processes by the deepspeed launcher, on one node or on those of a hostfile."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys

from diffnext.engine.launchers import LAUNCHERS
from diffnext.engine.launchers.base import Job
from diffnext.engine.launchers.group import run_group


@LAUNCHERS.register("deepspeed")
def launch(job: Job) -> int:
    """Start `num_processes` on each node; return deepspeed's exit code.

    Raises:
        ValueError: deepspeed is not installed, or the hostfile is not there.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError("--deepspeed needs deepspeed: pip install deepspeed")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--no_local_rank"]
    if job.hostfile:
        if not os.path.isfile(job.hostfile):
            raise ValueError(f"--host {job.hostfile} does not exist")
        command += ["--hostfile", job.hostfile]
    else:
        command += ["--master_port", str(_free_port())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible and not job.hostfile:  # --num_gpus would make deepspeed forget which they are
        chosen = ",".join(visible.split(",")[: job.num_processes])
        command += ["--include", f"localhost:{chosen}"]
    else:
        command += ["--num_gpus", str(job.num_processes)]
    return run_group([*command, *job.command])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
