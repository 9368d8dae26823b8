# SPDX-License-Identifier: Apache-2.0
"""The user's DeepSpeed json joined with the options of the run."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

AUTO = "auto"
_OURS = {  # sections of the json that an option of the run stands for
    "optimizer": "SOLVER.OPTIMIZER",
    "scheduler": "SOLVER.LR_POLICY",
    "activation_checkpointing": "TRAIN.CHECKPOINTING",
    "amp": "MODEL.PRECISION",
}
_SECTIONS = ("zero_optimization", "bf16", "fp16", "torch_autocast")  # that are looked into
_OFFLOADS = ("offload_optimizer", "offload_param")  # null is no offloading
_SWITCHES = {"bfloat16": "bf16", "float16": "fp16"}


def read_config(path: str) -> dict[str, Any]:
    """Read a DeepSpeed json file.

    Raises:
        ValueError: not a JSON object, or a section is none, or there is no such stage of ZeRO; the
            message names file and place.
    """
    try:
        with open(path) as file:
            value = json.load(file)
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"--deepspeed {path}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"--deepspeed {path} holds a {type(value).__name__}, wanted an object")
    _check_sections(value, path)
    return value


def _check_sections(config: Mapping[str, Any], path: str) -> None:
    """Refuse sections that others look into and that are no objects, and stages that there are not."""
    zero = config.get("zero_optimization", {})
    inside = zero if isinstance(zero, dict) else {}
    sections = {name: config.get(name, {}) for name in _SECTIONS}
    sections |= {f"zero_optimization.{name}": inside.get(name) or {} for name in _OFFLOADS}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ValueError(f"--deepspeed {path}: {name} is {section!r}, wanted an object")
    if inside.get("stage", 0) not in range(4):
        raise ValueError(
            f"--deepspeed {path}: zero_optimization.stage is {inside['stage']!r}, wanted 0, 1, 2 or 3"
        )


def merge_config(
    user: Mapping[str, Any],
    *,
    batch_size: int,
    accum_steps: int,
    world: int,
    precision: str,
    max_norm: float,
) -> dict[str, Any]:
    """Fill in what the run decides; what the user wrote may repeat it, not contradict it.

    Args:
        user: content of the json; "auto" stands for the run's value.
        batch_size: samples of a micro-batch of one process.

    Raises:
        ValueError: the json says something else than the run; the message names both values.
    """
    config = copy.deepcopy(dict(user))
    for key, instead in _OURS.items():
        if config.pop(key, AUTO) != AUTO:
            raise ValueError(
                f"the DeepSpeed json has {key!r}; the run's comes from {instead}, remove it"
            )
    wanted = {
        "train_micro_batch_size_per_gpu": (batch_size, "TRAIN.BATCH_SIZE"),
        "gradient_accumulation_steps": (accum_steps, "SOLVER.ACCUM_STEPS"),
        "train_batch_size": (
            batch_size * accum_steps * world,
            "TRAIN.BATCH_SIZE * SOLVER.ACCUM_STEPS * processes",
        ),
        "gradient_clipping": (max_norm, "SOLVER.CLIP_GRAD"),
    }
    for key, (value, source) in wanted.items():
        _agree(config, key, value, source)
    _set_precision(config, precision)
    zero = config.setdefault("zero_optimization", {})
    if "offload_optimizer" in zero:
        config.setdefault("zero_force_ds_cpu_optimizer", False)
    config.setdefault("zero_allow_untested_optimizer", True)
    config.setdefault("steps_per_print", 2**31 - 1)
    return config


def zero_stage(config: Mapping[str, Any]) -> int:
    """Stage of ZeRO that a DeepSpeed configuration asks for."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def _agree(config: dict[str, Any], key: str, value: float, source: str) -> None:
    found = config.get(key, AUTO)
    if found not in (AUTO, value):
        raise ValueError(
            f"the DeepSpeed json has {key} {found}, the run has {value} ({source}); "
            'make them equal, or write "auto"'
        )
    config[key] = value


def _set_precision(config: dict[str, Any], precision: str) -> None:
    """Switch on the number format of the run; at stage 0 DeepSpeed keeps out of it."""
    if config.get("torch_autocast", {}).get("enabled"):
        raise ValueError(
            f"the DeepSpeed json has torch_autocast, the run has MODEL.PRECISION {precision!r}, "
            "which enters it by itself; remove it"
        )
    wanted = _SWITCHES.get(precision)
    for name in ("bf16", "fp16"):
        section = config.setdefault(name, {})
        enabled = section.get("enabled", AUTO)
        if enabled not in (AUTO, name == wanted):
            raise ValueError(
                f"the DeepSpeed json has {name}.enabled {str(enabled).lower()}, "
                f'the run has MODEL.PRECISION {precision!r}; make them agree, or write "auto"'
            )
        section["enabled"] = name == wanted and zero_stage(config) > 0
        if section["enabled"] is False:
            config[name] = {"enabled": False}
