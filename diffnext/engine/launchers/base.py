# SPDX-License-Identifier: Apache-2.0
"""What a launcher is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A script to be run by one or several processes."""

    main: Callable[[], int]  # the work itself, for a launcher that does it in this process
    command: Sequence[str]  # the script and its arguments, for one that starts others
    num_processes: int  # on this node; with a hostfile, on each node
    hostfile: str = ""  # nodes and their slots, for deepspeed
    rendezvous: Sequence[str] = ()  # options of torchrun for several nodes, such as --nnodes=2
