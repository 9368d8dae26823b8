# SPDX-License-Identifier: Apache-2.0
"""What a run will be: its options resolved, and checked against data and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from diffnext.engine import check, memory
from diffnext.engine.build.data import Datasets, datasets_of, held_out_of
from diffnext.engine.build.first_weights import FirstWeights, first_weights_of
from diffnext.engine.build.needs import activations_of, need_of, spread_for
from diffnext.engine.build.network import make_skeleton, network_folder, taken_modules
from diffnext.engine.build.options import (
    backend_of,
    check_names,
    check_single,
    optimizer_of,
    schedule_of,
)
from diffnext.engine.build.samples import check_samples
from diffnext.engine.check_data import embedded_text
from diffnext.engine.lr_scheduler import Schedule
from diffnext.engine.optim import OptimizerFactory
from diffnext.engine.spread import Spread
from diffnext.pipelines.builder import PIPELINES

Config = Any  # diffnext.config.CfgNode, which this layer does not import


@dataclass(frozen=True)
class Plan:
    """What a run will be, after all checks that need no weights."""

    data: Datasets
    held_out: Datasets | None  # what is evaluated on
    backend: str
    options: dict[str, Any]  # of the backend
    modules: dict[str, str]  # components that come from elsewhere, or are left out
    settings: dict[str, Any]  # of a network with random weights; empty to load them
    first_weights: FirstWeights | None  # that such a network starts from
    skeleton: nn.Module  # the network on the meta device, with frozen parts marked
    optimizer: OptimizerFactory
    schedule: Schedule
    spread: Spread
    need: memory.Need


def make_plan(cfg: Config, *, world: int, deepspeed: str = "", resumed: bool = False) -> Plan:
    """Resolve the options and check data, configuration and weights against each other.

    Args:
        world: number of processes.
        deepspeed: path of a DeepSpeed json, or "".
        resumed: whether all weights come from a checkpoint, whatever they began with.

    Raises:
        ValueError, FileNotFoundError: what does not fit; nothing was loaded or written.
    """
    check_single(cfg)
    backend, options = backend_of(cfg, world=world, deepspeed=deepspeed)
    optimizer = optimizer_of(cfg)
    check.check_optimizer(cfg.SOLVER.OPTIMIZER, optimizer)
    family = PIPELINES.get(cfg.PIPELINE.TYPE)
    check_samples(cfg, classes="label" in family.reads)
    folder = network_folder(cfg, family)
    config = check.read_config(folder) | dict(cfg.MODEL.CONFIG)
    expected = family.expects(config)
    data = datasets_of(cfg, family.reads, expected)
    held_out = held_out_of(cfg, family.reads, expected)
    modules = taken_modules(cfg, embedded=_all_embedded(data, held_out))
    settings = _random_settings(cfg, folder, config)
    pipe = make_skeleton(cfg, modules, settings or config)
    if not settings:
        check.check_weights(folder, pipe.model.state_dict())
    check_names(cfg, pipe.model)
    spread = spread_for(cfg, backend, options, world=world)
    copies, shape = spread.casts_weights, data.readers[0].shapes()[0][0]
    kept = activations_of(cfg, pipe, expected, copies=copies, shape=shape)
    return Plan(
        data=data,
        held_out=held_out,
        backend=backend,
        options=options,
        modules=modules,
        settings=settings,
        first_weights=None if resumed else first_weights_of(cfg, settings, pipe.model),
        skeleton=pipe.model,
        optimizer=optimizer,
        schedule=schedule_of(cfg),
        spread=spread,
        need=need_of(cfg, pipe.model, spread, kept),
    )


def _all_embedded(*given: Datasets | None) -> bool:
    """Whether no prompt is left to be encoded while training and evaluating."""
    return all(embedded_text(reader) for data in given if data for reader in data.readers)


def _random_settings(cfg: Config, folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a network that begins with random weights; none to load those in `folder`."""
    if cfg.MODEL.CONFIG or check.has_weights(folder):
        return dict(cfg.MODEL.CONFIG)
    return {key: value for key, value in config.items() if not key.startswith("_")}
