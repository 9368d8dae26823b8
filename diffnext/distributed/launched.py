# SPDX-License-Identifier: Apache-2.0
"""How this process was started: by a launcher, by SLURM's srun, or by itself. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def is_worker() -> bool:
    """Whether a launcher (ours, torchrun, deepspeed) or srun has started this process as one of many."""
    return all(name in os.environ for name in VARIABLES)


def rank() -> int:
    """The number of this process; 0 if it was started by itself."""
    return int(os.environ["RANK"]) if is_worker() else 0


def local_rank() -> int:
    """The number of this process among those of its node; 0 if it was started by itself."""
    return int(os.environ["LOCAL_RANK"]) if is_worker() else 0


def check_count(num_gpus: int) -> None:
    """Compare the number of processes that was asked for with what the launcher has started.

    Raises:
        ValueError: the two differ, or this is one process too many.
    """
    if is_worker() and rank() >= int(os.environ["WORLD_SIZE"]):
        raise ValueError(
            f"RANK is {rank()} and WORLD_SIZE is {os.environ['WORLD_SIZE']}; ranks count from 0, unset "
            "both to train without a launcher"
        )
    variable = "LOCAL_WORLD_SIZE" if "LOCAL_WORLD_SIZE" in os.environ else "LOCAL_SIZE"
    started = int(os.environ.get(variable, max(num_gpus, 1)))
    if is_worker() and started != max(num_gpus, 1):
        raise ValueError(
            f"NUM_GPUS is {num_gpus}, but the launcher has started {started} processes on this node "
            f"({variable}); set NUM_GPUS to {started}, or start the script without a launcher"
        )


def check_alone(num_gpus: int) -> None:
    """Before processes are started: nothing may say that there are others already.

    Raises:
        ValueError: WORLD_SIZE is set, differs from NUM_GPUS, and nobody has started this as a worker.
    """
    world = os.environ.get("WORLD_SIZE")
    if is_worker() or world in (None, str(max(num_gpus, 1))):
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    raise ValueError(
        f"NUM_GPUS is {num_gpus} and WORLD_SIZE is {world}, while {' and '.join(missing)} are not set: "
        "unset WORLD_SIZE to train on this node alone, start the script by torchrun, or give --nnodes "
        "and --rdzv-endpoint for several nodes"
    )


def gpu_name(index: int, environ: Mapping[str, str] = os.environ) -> str:
    """CUDA_VISIBLE_DEVICES of a process that is to see one GPU alone, by its number among the visible ones.

    Raises:
        ValueError: there are fewer.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(index + 1)]
    if index >= len(names):
        raise ValueError(
            f"GPU_ID is {index}, and CUDA_VISIBLE_DEVICES {visible!r} shows {len(names)}"
        )
    return names[index]


def adopt_slurm(environ: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Where srun has started several tasks, set the variables that torchrun would have set.

    What is set already wins: torchrun may itself be a task of srun.
    """
    if not all(name in environ for name in VARIABLES):
        for name, value in slurm_variables(environ).items():
            environ.setdefault(name, value)


def slurm_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of torchrun in the words of SLURM.

    Only a task of srun has SLURM_STEP_NUM_TASKS: the script of a batch job, which SLURM gives a
    SLURM_PROCID as well, is a single process, and so is the shell of `srun --pty bash`.

    Returns:
        {} if there is one task or no SLURM.
    """
    world = int(environ.get("SLURM_STEP_NUM_TASKS", 1))
    if world == 1 or "SLURM_PROCID" not in environ:
        return {}
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    layout = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE")
    if not nodes or not layout:
        raise ValueError(
            f"SLURM_STEP_NUM_TASKS is {world}, and SLURM_STEP_NODELIST or SLURM_STEP_TASKS_PER_NODE is "
            "not set; start the tasks by srun, or unset the variables of SLURM"
        )
    node = int(environ.get("SLURM_NODEID", 0))
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": str(world),
        # with --gpus-per-task each task sees its own devices only, and counts them from 0
        "LOCAL_RANK": "0" if "SLURM_GPUS_PER_TASK" in environ else environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks_per_node(layout)[node]),
        "MASTER_ADDR": first_host(nodes),
        # two jobs of a node have other numbers, and each process finds the same port
        "MASTER_PORT": str(20000 + int(environ.get("SLURM_JOB_ID", 0)) % 20000),
    }


def first_host(nodes: str) -> str:
    """The first node of a list as SLURM writes it: "gpu-07" of "gpu-[07-09,12],login1"."""
    head = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", head)


def tasks_per_node(layout: str) -> list[int]:
    """Tasks of each node of a list as SLURM writes it: [2, 2, 2, 1] of "2(x3),1"."""
    counts: list[int] = []
    for part in layout.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ValueError(f"SLURM's list of tasks is {layout!r}; wanted such as '2(x3),1'")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
