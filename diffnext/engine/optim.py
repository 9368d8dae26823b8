# SPDX-License-Identifier: Apache-2.0
"""Optimizers by name, and which parameters decay."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from diffnext.engine.blocks import repeated_blocks
from diffnext.engine.muon import Muon, inner_matrices
from diffnext.utils.registry import Registry

OptimizerFactory = Callable[[nn.Module], torch.optim.Optimizer]

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase)
_OPTIMIZERS = Registry("optimizer", package="torch.optim")


def param_groups(
    net: nn.Module, weight_decay: float, matrices: Collection[nn.Parameter] = ()
) -> list[dict]:
    """Split the parameters that learn: those of normalisation layers do not decay, all others do.

    Args:
        matrices: parameters that get a group of their own, marked `"muon": True`.
    """
    norms: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    inner: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in net.modules():
        for param in module.parameters(recurse=False):
            if not param.requires_grad or param in seen:
                continue
            seen.add(param)
            group = norms if isinstance(module, _NORMS) else others
            group = inner if param in matrices else group
            group.append(param)
    groups = [
        {"params": others, "weight_decay": weight_decay},
        {"params": norms, "weight_decay": 0.0},
        {"params": inner, "weight_decay": weight_decay, "muon": True},
    ]
    return [group for group in groups if group["params"]]


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """An optimizer by its name in any case ("adamw"), or a class at "module:Class".

    The names are those of torch.optim; "muon" is diffnext's own, which trains a whole network.

    Raises:
        ValueError: no such optimizer; the message lists what exists.
    """
    if ":" in name:
        return _OPTIMIZERS.get(name)
    classes = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
    }
    classes["muon"] = Muon
    if name.lower() not in classes:
        known = sorted(c.__name__ for c in classes.values() if c is not torch.optim.Optimizer)
        raise ValueError(f"SOLVER.OPTIMIZER is {name!r}; there are {known}")
    return classes[name.lower()]


def optimizer_factory(
    name: str, *, lr: float, weight_decay: float, beta2: float
) -> OptimizerFactory:
    """Return a function that makes the optimizer of a network, fused where the class can.

    Args:
        name: see `optimizer_class`.
        beta2: second decay rate of optimizers that have two; the first is 0.9.
    """
    cls = optimizer_class(name)
    accepted = inspect.signature(cls).parameters
    options: dict = {"lr": lr}
    if "betas" in accepted:
        options["betas"] = (0.9, beta2)

    def make(net: nn.Module) -> torch.optim.Optimizer:
        matrices = inner_matrices(net, repeated_blocks(net)) if cls is Muon else ()
        groups = param_groups(net, weight_decay, matrices)
        if not groups:
            raise ValueError(f"{type(net).__name__} has no parameter that learns: all are frozen")
        if "fused" not in accepted:
            return cls(groups, **options)
        return cls(groups, fused=True, **options)

    return make
