# SPDX-License-Identifier: Apache-2.0
"""Which of several processes this one is, as torchrun and srun say; nothing is started between them."""

from __future__ import annotations

import os
import re

COUNTS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # of processes: by torchrun, by srun
LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
LOCAL_COUNTS = ("LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE")  # the latter as 4 or 4(x2),3


def is_one_of_many() -> bool:
    """Whether this process was started as one of several."""
    return any(_number(name, 1) > 1 for name in COUNTS)


def local_rank() -> int:
    """The number of this process among those on its node."""
    return max(_number(name, 0) for name in LOCAL_RANKS)


def local_count() -> int:
    """How many of them are on this node."""
    return max(_number(name, 1) for name in LOCAL_COUNTS)


def _number(name: str, default: int) -> int:
    """The number that a variable of the environment begins with."""
    match = re.match(r"\d+", os.environ.get(name, ""))
    return int(match[0]) if match else default
