# SPDX-License-Identifier: Apache-2.0
"""What a run will be: its options resolved, and checked against data and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from diffnext.engine import check, memory
from diffnext.engine.build.config import Config
from diffnext.engine.build.data import Datasets
from diffnext.engine.build.first_weights import FirstWeights, first_weights_of
from diffnext.engine.build.given import Given, compare_given
from diffnext.engine.build.needs import activations_of, need_of, sharding_for
from diffnext.engine.build.network import make_skeleton, taken_modules
from diffnext.engine.build.options import (
    backend_of,
    check_names,
    check_single,
    decays_of,
    optimizer_of,
    schedule_of,
)
from diffnext.engine.build.samples import check_samples
from diffnext.engine.check_data import embedded_text
from diffnext.engine.component_files import check_weights, has_weights
from diffnext.engine.ema import part_names
from diffnext.engine.lr_scheduler import Schedule
from diffnext.engine.optim import OptimizerFactory
from diffnext.engine.sharding import Sharding
from diffnext.methods import METHODS


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
    averages: list[str]  # of the weights, by their names in a checkpoint
    sharding: Sharding
    need: memory.Need


def make_plan(
    cfg: Config,
    *,
    world: int,
    deepspeed: str = "",
    resumed: bool = False,
    given: Given | None = None,
) -> Plan:
    """Resolve the options and check data, configuration and weights against each other.

    Args:
        world: number of processes.
        deepspeed: path of a DeepSpeed json, or "".
        resumed: whether the weights that learn come from a checkpoint, whatever they began with.
        given: its model and data, where they have been compared.

    Raises:
        ValueError, FileNotFoundError: what does not fit; nothing was loaded or written.
    """
    check_single(cfg)
    backend, options = backend_of(cfg, world=world, deepspeed=deepspeed)
    optimizer = optimizer_of(cfg)
    check.check_optimizer(cfg.SOLVER.OPTIMIZER, optimizer)
    given = given or compare_given(cfg)
    check_samples(cfg, classes="label" in given.family.reads)
    modules = taken_modules(cfg, embedded=_all_embedded(given.data, given.held_out))
    settings = _random_settings(cfg, given)
    pipe = make_skeleton(cfg, modules, settings or given.config)
    if not settings:
        check_weights(given.folder, pipe.model.state_dict())
    check_names(cfg, pipe.model)
    sharding = sharding_for(cfg, backend, options, world=world)
    copies, shape = sharding.casts_weights, given.data.readers[0].shapes()[0][0]
    kept = activations_of(cfg, pipe, given.expected, copies=copies, shape=shape)
    return Plan(
        data=given.data,
        held_out=given.held_out,
        backend=backend,
        options=options,
        modules=modules,
        settings=settings,
        first_weights=_first_weights(cfg, settings, pipe.model, resumed=resumed),
        skeleton=pipe.model,
        optimizer=optimizer,
        schedule=schedule_of(cfg),
        averages=part_names(decays_of(cfg)),
        sharding=sharding,
        need=need_of(cfg, pipe.model, sharding, kept),
    )


def _first_weights(
    cfg: Config, settings: Mapping[str, Any], net: nn.Module, *, resumed: bool
) -> FirstWeights | None:
    """What a new network starts from; a checkpoint has all but the roles that do not learn."""
    if resumed and all(role.learns for role in METHODS.get(cfg.METHOD.TYPE).roles):
        return None
    return first_weights_of(cfg, settings, net)


def _all_embedded(*given: Datasets | None) -> bool:
    """Whether no prompt is left to be encoded while training and evaluating."""
    return all(embedded_text(reader) for data in given if data for reader in data.readers)


def _random_settings(cfg: Config, given: Given) -> dict[str, Any]:
    """The settings of a network that begins with random weights; none to load those in its folder."""
    if cfg.MODEL.CONFIG or has_weights(given.folder):
        return dict(cfg.MODEL.CONFIG)
    return {key: value for key, value in given.config.items() if not key.startswith("_")}
