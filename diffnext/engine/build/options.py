# SPDX-License-Identifier: Apache-2.0
"""What options say without data and weights: checked, and resolved to backend, optimizer, schedule."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from torch import nn

from diffnext.data.loader import Loader
from diffnext.engine import check
from diffnext.engine.backends import BACKENDS
from diffnext.engine.backends.base import PRECISIONS
from diffnext.engine.backends.deepspeed import check_float16
from diffnext.engine.backends.deepspeed_config import merge_config, read_config, zero_stage
from diffnext.engine.blocks import KEEPS
from diffnext.engine.build.config import Config
from diffnext.engine.ema import check_decays
from diffnext.engine.lr_scheduler import Schedule, make_schedule
from diffnext.engine.optim import OptimizerFactory, check_patterns, optimizer_factory
from diffnext.methods import METHODS
from diffnext.utils.registry import check_options


def check_single(cfg: Config) -> None:
    """What can be said of single options."""
    check.check_numbers({key: attrgetter(key)(cfg) for key in check.RANGES})
    check.check_choice("MODEL.PRECISION", cfg.MODEL.PRECISION, PRECISIONS)
    check.check_choice("TRAIN.DEVICE_EMA", cfg.TRAIN.DEVICE_EMA, ("cpu", "cuda", "gpu"))
    check_decays(decays_of(cfg))
    check.check_prefix(cfg.SOLVER.SNAPSHOT_PREFIX)
    check.check_choice("TRAIN.OTHER_SHAPES", cfg.TRAIN.OTHER_SHAPES, ("refuse", "skip"))
    for kind in cfg.TRAIN.CHECKPOINT_KEEP:
        check.check_choice("TRAIN.CHECKPOINT_KEEP", kind, KEEPS)
    check_grid(cfg.EVAL.TIMESTEPS, cfg.EVAL.MASK_RATIOS)
    check_options(METHODS.get(cfg.METHOD.TYPE), cfg.METHOD.CONFIG, key="METHOD.CONFIG")
    check.check_set_once(cfg.PARALLEL.CONFIG, "PARALLEL.CONFIG")
    check.check_set_once(cfg.TRAIN.LOADER_CONFIG, "TRAIN.LOADER_CONFIG")
    loading = {"batch_size": cfg.TRAIN.BATCH_SIZE, **cfg.TRAIN.LOADER_CONFIG}
    check_options(Loader, loading, key="TRAIN.LOADER_CONFIG")


def check_grid(timesteps: Sequence[float], mask_ratios: Sequence[float]) -> None:
    """Refuse levels of the evaluation that there are not, and sides of the grid without any."""
    for key, values, low, high in (
        ("TIMESTEPS", timesteps, 0, 1000),
        ("MASK_RATIOS", mask_ratios, 0.01, 1),
    ):
        wrong = [v for v in values if not isinstance(v, int | float) or not low <= v <= high]
        if wrong or not values or len(set(values)) < len(values):
            raise ValueError(
                f"EVAL.{key} is {list(values)}; numbers from {low} to {high} are wanted, at least "
                "one and none of them twice"
            )


def backend_of(cfg: Config, *, world: int, deepspeed: str) -> tuple[str, dict[str, Any]]:
    """Name and options of the backend."""
    name = cfg.PARALLEL.BACKEND
    if name == "auto":
        name = "deepspeed" if deepspeed else ("ddp" if world > 1 else "single")
    check.check_backend(name, world=world, deepspeed=deepspeed)
    options = dict(cfg.PARALLEL.CONFIG)
    if deepspeed:
        options["config"] = merge_config(
            read_config(deepspeed),
            batch_size=cfg.TRAIN.BATCH_SIZE,
            accum_steps=cfg.SOLVER.ACCUM_STEPS,
            world=world,
            precision=cfg.MODEL.PRECISION,
            max_norm=cfg.SOLVER.CLIP_GRAD,
        )
    check_options(BACKENDS.get(name), options, key="PARALLEL.CONFIG")
    gathered = options.get("gather_dtype", "float32")
    check.check_choice("PARALLEL.CONFIG.gather_dtype", gathered, PRECISIONS)
    stage = zero_stage(options.get("config", {}))
    if stage > 0 and cfg.MODEL.PRECISION == "float16":
        check_float16()
    check.check_split(name, options, world=world, stage=stage, optimizer=cfg.SOLVER.OPTIMIZER)
    return name, options


def optimizer_of(cfg: Config) -> OptimizerFactory:
    """What makes the optimizer of a network."""
    return optimizer_factory(
        cfg.SOLVER.OPTIMIZER,
        lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        beta2=cfg.SOLVER.ADAM_BETA2,
        no_decay=cfg.SOLVER.NO_DECAY,
        lr_scale=cfg.SOLVER.LR_SCALE,
        config=cfg.SOLVER.OPTIMIZER_CONFIG,
    )


def check_names(cfg: Config, net: nn.Module) -> None:
    """Refuse options that name parameters which the network has not."""
    patterns = [pattern for pattern in cfg.SOLVER.NO_DECAY if pattern not in ("norm", "bias")]
    check_patterns(net, patterns, key="SOLVER.NO_DECAY")
    check_patterns(net, cfg.SOLVER.LR_SCALE, key="SOLVER.LR_SCALE")


def schedule_of(cfg: Config, *, begin: int = 0) -> Schedule:
    """The learning rate as a function of the step; its course, warm-up included, begins at `begin`."""
    course = make_schedule(
        cfg.SOLVER.LR_POLICY,
        base_lr=cfg.SOLVER.BASE_LR,
        max_steps=cfg.SOLVER.MAX_STEPS - begin,
        min_lr=cfg.SOLVER.MIN_LR,
        decay_steps=cfg.SOLVER.DECAY_STEPS,
        decay_gamma=cfg.SOLVER.DECAY_GAMMA,
        decay_power=cfg.SOLVER.DECAY_POWER,
        warm_up_steps=cfg.SOLVER.WARM_UP_STEPS,
        warm_up_factor=cfg.SOLVER.WARM_UP_FACTOR,
    )
    return lambda step: course(step - begin)


def decays_of(cfg: Config) -> list[float]:
    """The decays to average the weights with; the first one's average is what others load."""
    if cfg.TRAIN.MODEL_EMA == 0 and cfg.TRAIN.EXTRA_EMA:
        raise ValueError(
            f"TRAIN.MODEL_EMA is 0 and TRAIN.EXTRA_EMA is {cfg.TRAIN.EXTRA_EMA}; put the first decay "
            "into MODEL_EMA"
        )
    return [cfg.TRAIN.MODEL_EMA, *cfg.TRAIN.EXTRA_EMA] if cfg.TRAIN.MODEL_EMA else []
