# SPDX-License-Identifier: Apache-2.0
"""Processes by the deepspeed launcher, on one node or on those of a hostfile."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from pathlib import Path

from diffnext.engine.launchers import LAUNCHERS
from diffnext.engine.launchers.base import Job
from diffnext.engine.launchers.hosts import run_hosts


@LAUNCHERS.register("deepspeed")
def launch(job: Job) -> int:
    """Start `num_processes` on this node, or on each node of the hostfile; return the exit code.

    Raises:
        ValueError: what is not installed, or what is wrong with the hostfile.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError("--deepspeed needs deepspeed: pip install deepspeed")
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", "--no_local_rank"]
    # one process a node: the watcher, which starts the others and tells what ends them
    runner += ["--num_gpus=1", "--log_level=critical", f"--hostfile={job.hostfile}"]
    if "MASTER_PORT" in os.environ:
        runner += ["--master_port", os.environ["MASTER_PORT"]]
    devices = ",".join(map(str, range(job.num_processes)))
    if job.hostfile:
        hosts = read_hosts(job.hostfile)
    else:
        hosts = [socket.gethostname()]
        # which DeepSpeed would say that it ignores
        devices = os.environ.pop("CUDA_VISIBLE_DEVICES", devices)
    return run_hosts([*runner, "--module"], job, hosts, devices)


def read_hosts(path: str) -> list[str]:
    """The names of the nodes of a hostfile, `NAME slots=N` in each line.

    Raises:
        ValueError: the file is not there or names none, or there is no pdsh to reach several.
    """
    if not os.path.isfile(path):
        raise ValueError(f"--host {path} does not exist")
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    hosts = [words[0] for words in lines if words and not words[0].startswith("#")]
    if not hosts:
        raise ValueError(
            f"--host {path} names no node; write a line for each, such as: node1 slots=8"
        )
    if len(hosts) > 1 and shutil.which("pdsh") is None:
        raise ValueError("--host needs pdsh to reach several nodes: apt-get install pdsh")
    return hosts
