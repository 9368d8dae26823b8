# SPDX-License-Identifier: Apache-2.0
"""Whether options fit together, before anything is loaded."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from typing import Any

from diffnext.distributed.mesh import check_replicas
from diffnext.engine.memory import state_bytes
from diffnext.engine.optim import OptimizerFactory, optimizer_class

_WHOLE = {  # optimizers that cannot step parts of weights, or step them otherwise, and whose parts
    "muon": ("fsdp", "ZeRO"),
    "adafactor": ("fsdp", "ZeRO"),
    "rprop": ("fsdp",),
    "adagrad": ("ZeRO",),
}
_SET_ELSEWHERE = {  # options of a class that an option of the run, or the start of it, decides
    "PARALLEL.CONFIG": {"precision": "MODEL.PRECISION", "config": "--deepspeed"},
    "TRAIN.LOADER_CONFIG": {
        "batch_size": "TRAIN.BATCH_SIZE",
        "accum_steps": "SOLVER.ACCUM_STEPS",
        "seed": "RNG_SEED",
        "rank": "the launcher",
        "world": "the launcher",
        "num_threads": "TRAIN.NUM_THREADS",
        "weights": "TRAIN.DATASET",
    },
}
RANGES = {  # lowest and highest value of options that are numbers
    "NUM_GPUS": (0, math.inf),
    "GPU_ID": (0, math.inf),
    "RNG_SEED": (-(2**63), 2**63 - 1),  # torch takes no others
    "SOLVER.BASE_LR": (0, math.inf),
    "SOLVER.MIN_LR": (0, math.inf),
    "SOLVER.WEIGHT_DECAY": (0, math.inf),
    "SOLVER.DECAY_GAMMA": (0, math.inf),
    "SOLVER.DECAY_POWER": (0, math.inf),
    "SOLVER.WARM_UP_FACTOR": (0, 1),
    "SOLVER.MAX_STEPS": (1, math.inf),
    "SOLVER.DISPLAY": (1, math.inf),
    "SOLVER.EMA_EVERY": (1, math.inf),
    "SOLVER.SNAPSHOT_EVERY": (1, math.inf),
    "SOLVER.SNAPSHOT_KEEP": (0, math.inf),
    "SOLVER.SNAPSHOT_KEEP_EVERY": (0, math.inf),
    "SOLVER.WARM_UP_STEPS": (0, math.inf),
    "SOLVER.ACCUM_STEPS": (1, math.inf),
    "SOLVER.CLIP_GRAD": (0, math.inf),
    "SOLVER.MAX_SKIPPED": (0, math.inf),
    "SOLVER.MAX_HOURS": (0, math.inf),
    "SOLVER.HANG_TIMEOUT": (0, math.inf),
    "EVAL.EVERY": (0, math.inf),
    "EVAL.SAMPLES": (1, math.inf),
    "SAMPLE.EVERY": (0, math.inf),
    "TRAIN.NUM_THREADS": (0, math.inf),
    "TRAIN.BATCH_SIZE": (1, math.inf),
    "TRAIN.LOSS_REPEAT": (1, math.inf),
    "TRAIN.CHECKPOINTING": (0, 3),
    "TRAIN.TEXT_DROPOUT": (0, 1),
}


def check_numbers(values: Mapping[str, float]) -> None:
    """Compare options with their RANGES.

    Raises:
        ValueError: one is too small or too large.
    """
    for key, value in values.items():
        low, high = RANGES[key]
        if not low <= value <= high or math.isinf(value):
            wanted = f"at least {low}, finite" if high == math.inf else f"from {low} to {high}"
            raise ValueError(f"{key} is {value}; wanted is {wanted}")


def check_choice(key: str, value: str, choices: Collection[str]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{key} is {value!r}; there are {sorted(choices)}")


def check_prefix(prefix: str) -> None:
    """Refuse a beginning of snapshots' names that would put them into a folder where none are sought."""
    if "/" in prefix or os.sep in prefix:
        raise ValueError(
            f"SOLVER.SNAPSHOT_PREFIX is {prefix!r}; it begins a name, so leave out what is before the "
            "last / (--exp-dir says where snapshots go)"
        )


def check_set_once(options: Mapping[str, Any], key: str) -> None:
    """Refuse what is set elsewhere: there is one place for each thing."""
    for name, place in _SET_ELSEWHERE[key].items():
        if name in options:
            raise ValueError(f"{key} has {name!r}, which {place} sets; take it out of {key}")


def check_backend(name: str, *, world: int, deepspeed: str) -> None:
    """Compare the backend with how the run is started.

    Raises:
        ValueError: they do not go together.
    """
    if (name == "deepspeed") != bool(deepspeed):
        given = f"--deepspeed {deepspeed}" if deepspeed else "no --deepspeed JSON"
        raise ValueError(f"PARALLEL.BACKEND is {name!r} and there is {given}; they go together")
    if name == "single" and world > 1:
        raise ValueError(
            f"PARALLEL.BACKEND is 'single' and there are {world} processes; take 'ddp'"
        )


def check_split(
    backend: str, options: Mapping[str, Any], *, world: int, stage: int, optimizer: str
) -> None:
    """Compare how the network is split with the number of processes and the optimizer.

    Args:
        options: of the backend.
        stage: of ZeRO.

    Raises:
        ValueError: copies that the processes do not make up, or an optimizer that takes no parts.
    """
    check_replicas(options.get("replicate", 1), world)
    splits = "ZeRO" if stage > 0 else backend
    whole = [optimizer_class(name) for name, parts in _WHOLE.items() if splits in parts]
    if optimizer.lower().endswith("8bit") and (backend == "fsdp" or stage > 0):
        raise ValueError(
            f"SOLVER.OPTIMIZER is {optimizer!r}, whose states of 8 bits come in blocks that fsdp and "
            "ZeRO do not split; take 'AdamW' or ddp"
        )
    if whole and issubclass(optimizer_class(optimizer), tuple(whole)):
        raise ValueError(
            f"SOLVER.OPTIMIZER is {optimizer!r}, which needs whole weights, and {splits} splits them; "
            "take 'AdamW' or ddp"
        )


def check_optimizer(name: str, make: OptimizerFactory) -> None:
    """Let an optimizer take a step of a small network.

    Raises:
        ValueError: it cannot, be it for its settings or because it asks for more than gradients.
    """
    try:
        state_bytes(make)
    except Exception as error:  # of a class that may be anybody's
        raise ValueError(
            f"SOLVER.OPTIMIZER is {name!r}, which cannot take a step as it is set: {error}"
        ) from error
