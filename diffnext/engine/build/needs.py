# SPDX-License-Identifier: Apache-2.0
"""The memory that a run needs, as it is set and as it might be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from diffnext.engine import activations, memory
from diffnext.engine.backends.base import PRECISIONS
from diffnext.engine.build.config import Config
from diffnext.engine.build.folders import network_folder
from diffnext.engine.build.network import make_skeleton
from diffnext.engine.build.options import decays_of, optimizer_of
from diffnext.engine.component_files import read_config
from diffnext.engine.sharding import Sharding, sharding_of
from diffnext.pipelines.families import PIPELINES
from diffnext.pipelines.train_base import Expected, TrainPipeline
from diffnext.utils.logging import logger

_HOST = {"device": "cpu"}
WAYS = {  # to shard a network: backend and its options
    "ddp": ("ddp", {}),
    "fsdp": ("fsdp", {}),
    "fsdp bfloat16": ("fsdp", {"gather_dtype": "bfloat16"}),
    "fsdp offload": ("fsdp", {"offload": True}),
    "zero 1": ("deepspeed", {"stage": 1}),
    "zero 2": ("deepspeed", {"stage": 2}),
    "zero 2 offload": ("deepspeed", {"stage": 2, "offload_optimizer": _HOST}),
    "zero 3": ("deepspeed", {"stage": 3}),
    "zero 3 offload": (
        "deepspeed",
        {"stage": 3, "offload_optimizer": _HOST, "offload_param": _HOST},
    ),
}


def need_of(cfg: Config, net: nn.Module, sharding: Sharding, kept: int) -> memory.Need:
    """The memory of a process.

    Args:
        net: may be on the meta device.
        kept: bytes of activations.
    """
    return memory.estimate(
        net,
        optimizer_of(cfg),
        sharding,
        averages=len(decays_of(cfg)),
        average_on_host=cfg.TRAIN.DEVICE_EMA == "cpu",
        activations=kept,
    )


def sharding_for(cfg: Config, backend: str, options: Mapping[str, Any], *, world: int) -> Sharding:
    """How a backend with these options shards the network of a run."""
    return sharding_of(
        backend,
        options,
        world=world,
        precision=cfg.MODEL.PRECISION,
        accum_steps=cfg.SOLVER.ACCUM_STEPS,
    )


def activations_of(
    cfg: Config,
    pipe: TrainPipeline,
    expected: Expected,
    *,
    copies: bool,
    shape: Sequence[int] = (),
) -> int:
    """Bytes of activations of a micro-batch; 0, and a warning, where a family cannot say.

    Args:
        copies, shape: see `activations.measure`.
    """
    try:
        return activations.measure(
            pipe,
            pipe.model,
            expected=expected,
            batch_size=cfg.TRAIN.BATCH_SIZE,
            precision=PRECISIONS[cfg.MODEL.PRECISION],
            copies=copies,
            shape=shape,
        )
    except Exception as error:  # of a family that may be anybody's
        logger.warning(f"activations are not counted: {type(error).__name__}: {error}")
        return 0


def survey(
    cfg: Config, *, world: int, zero: Mapping[str, Any] | None = None
) -> dict[str, memory.Need]:
    """What each way to shard the network of a run over processes needs; no data is looked at.

    Args:
        zero: section of a DeepSpeed json whose sizes take the place of DeepSpeed's own.

    Raises:
        ValueError, FileNotFoundError: there is no such network.
    """
    family = PIPELINES.get(cfg.PIPELINE.TYPE)
    config = read_config(network_folder(cfg, family)) | dict(cfg.MODEL.CONFIG)
    pipe = make_skeleton(cfg, dict(cfg.PIPELINE.MODULES), config)
    expected = family.expects(config)
    kept = {c: activations_of(cfg, pipe, expected, copies=c) for c in (True, False)}
    sizes = {key: v for key, v in (zero or {}).items() if not key.startswith("offload")}
    needs = {}
    for name, (backend, options) in WAYS.items():
        if backend == "deepspeed":
            options = {"config": {"zero_optimization": sizes | options}}
        sharding = sharding_for(cfg, backend, options, world=world)
        needs[name] = need_of(cfg, pipe.model, sharding, kept[sharding.casts_weights])
    return needs
