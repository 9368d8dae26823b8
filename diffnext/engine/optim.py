# SPDX-License-Identifier: Apache-2.0
"""Optimizers by name, which parameters decay, and how fast each one learns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _NormBase

from diffnext.engine.blocks import repeated_blocks
from diffnext.engine.muon import Muon, inner_matrices
from diffnext.utils.registry import Registry

OptimizerFactory = Callable[[nn.Module], torch.optim.Optimizer]

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase)
_OPTIMIZERS = Registry("SOLVER.OPTIMIZER", package="torch.optim")
# one kernel for all weights, on a CPU six times as fast as a loop; elsewhere torch chooses
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
_KERNELS = {"fused", "foreach", "capturable", "differentiable"}  # arguments that choose one
_SET_ELSEWHERE = {  # arguments that an option of the run decides
    "params": "MODEL",
    "lr": "SOLVER.BASE_LR",
    "weight_decay": "SOLVER.WEIGHT_DECAY",
}


def learning_parameters(net: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Name, parameter and owner of all that learns; one that is shared comes once."""
    seen: set[nn.Parameter] = set()
    for path, module in net.named_modules():
        for name, param in module.named_parameters(recurse=False):
            if param.requires_grad and param not in seen:
                seen.add(param)
                yield f"{path}.{name}".lstrip("."), param, module


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern (* is anything) is a parameter's name, or the path of a module that it is in."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def decays(name: str, param: nn.Parameter, owner: nn.Module, no_decay: Collection[str]) -> bool:
    """Whether weight decay is for this parameter.

    Args:
        no_decay: "norm" (normalisation layers), "bias" (whatever is called so), or patterns of names.
            A parameter with the attribute `no_weight_decay` never decays.
    """
    if getattr(param, "no_weight_decay", False):
        return False
    if "norm" in no_decay and isinstance(owner, _NORMS):
        return False
    if "bias" in no_decay and name.rpartition(".")[2] == "bias":
        return False
    return not any(matches(name, pattern) for pattern in no_decay)


def param_groups(
    net: nn.Module,
    *,
    weight_decay: float,
    no_decay: Collection[str] = ("norm",),
    lr_scale: Mapping[str, float] | None = None,
    matrices: Collection[nn.Parameter] = (),
) -> list[dict]:
    """The parameters that learn, grouped by what is the same for them.

    Args:
        no_decay: see `decays`.
        lr_scale: pattern of names -> factor of the learning rate, kept as "lr_scale" of a group; the
            factors of several patterns multiply, and so does the attribute `lr_scale` of a parameter.
        matrices: parameters that get groups of their own, marked `"muon": True`.
    """
    groups: dict[tuple[bool, float, bool], dict] = {}
    for name, param, owner in learning_parameters(net):
        decay, muon = decays(name, param, owner, no_decay), param in matrices
        scale = getattr(param, "lr_scale", 1.0)
        for pattern, factor in (lr_scale or {}).items():
            scale *= factor if matches(name, pattern) else 1.0
        group = {"params": [], "weight_decay": weight_decay if decay else 0.0, "lr_scale": scale}
        if muon:
            group["muon"] = True
        groups.setdefault((muon, scale, not decay), group)["params"].append(param)
    return [groups[key] for key in sorted(groups)]


def check_patterns(net: nn.Module, patterns: Iterable[str], *, key: str) -> None:
    """Refuse a pattern that is the name of nothing that learns.

    Args:
        patterns: of parameters' names.
        key: the option that holds them, for messages.
    """
    names = [name for name, _, _ in learning_parameters(net)]
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise ValueError(
                f"{key} has {pattern!r}, which no parameter that learns is called; their names are "
                f"such as {', '.join(names[:: max(len(names) // 4, 1)][:4])}; * stands for anything"
            )


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """An optimizer by its name in any case ("adamw"), or a class at "module:Class" or "module.Class".

    The names are those of torch.optim; "muon" is diffnext's own, which trains a whole network; names
    that end in "8bit" ("AdamW8bit") are those of bitsandbytes.

    Raises:
        ValueError: no such optimizer, or its package is missing; the message says what there is.
    """
    if ":" in name or "." in name:
        module, _, cls = name.replace(":", ".").rpartition(".")
        found = _OPTIMIZERS.get(f"{module}:{cls}")
        if not (inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)):
            raise ValueError(f"SOLVER.OPTIMIZER is {name!r}, which is no torch.optim.Optimizer")
        return found
    eight_bit = name.lower().endswith("8bit")
    classes = _classes(_load_bitsandbytes() if eight_bit else torch.optim)
    if eight_bit:
        classes = {key: value for key, value in classes.items() if key.endswith("8bit")}
    else:
        classes["muon"] = Muon
    if name.lower() not in classes:
        known = sorted(c.__name__ for c in classes.values() if c is not torch.optim.Optimizer)
        raise ValueError(f"SOLVER.OPTIMIZER is {name!r}; there are {known}")
    return classes[name.lower()]


def _check_config(
    cls: type, config: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter]
) -> None:
    """Compare SOLVER.OPTIMIZER_CONFIG with the arguments of the class."""
    for name in sorted(config):
        if name in _SET_ELSEWHERE:
            raise ValueError(
                f"SOLVER.OPTIMIZER_CONFIG has {name!r}, which {_SET_ELSEWHERE[name]} sets; take it out"
            )
        if name not in accepted:
            known = [key for key in accepted if key not in _SET_ELSEWHERE]
            raise ValueError(f"SOLVER.OPTIMIZER_CONFIG has {name!r}; {cls.__name__} takes {known}")


def _classes(module: object) -> dict[str, type[torch.optim.Optimizer]]:
    return {
        key.lower(): value
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
    }


def _load_bitsandbytes() -> object:
    try:
        import bitsandbytes.optim
    except ImportError as error:
        raise ValueError(
            "optimizers of 8 bits need bitsandbytes: pip install bitsandbytes"
        ) from error
    return bitsandbytes.optim


def optimizer_factory(
    name: str,
    *,
    lr: float,
    weight_decay: float,
    beta2: float,
    no_decay: Collection[str] = ("norm",),
    lr_scale: Mapping[str, float] | None = None,
    config: Mapping[str, Any] | None = None,
) -> OptimizerFactory:
    """Return a function that makes the optimizer of a network, fused where that is faster.

    Args:
        name: see `optimizer_class`.
        beta2: second decay rate of optimizers that have two or more; the first is 0.9.
        no_decay, lr_scale: see `param_groups`.
        config: further arguments of the class, such as its momentum.

    Raises:
        ValueError: no such optimizer, or an argument that it does not take.
    """
    cls, config = optimizer_class(name), dict(config or {})
    accepted = inspect.signature(cls).parameters
    _check_config(cls, config, accepted)
    options: dict = {"lr": lr}
    if "betas" in accepted:
        options["betas"] = (0.9, beta2, *accepted["betas"].default[2:])
    options |= config
    kernel_chosen = _KERNELS.intersection(config)
    fused = {"fused": True} if issubclass(cls, _FUSED) and not kernel_chosen else {}

    def make(net: nn.Module) -> torch.optim.Optimizer:
        groups = param_groups(
            net,
            weight_decay=weight_decay,
            no_decay=no_decay,
            lr_scale=lr_scale,
            matrices=inner_matrices(net, repeated_blocks(net)) if cls is Muon else (),
        )
        if not groups:
            raise ValueError(f"{type(net).__name__} has no parameter that learns: all are frozen")
        split = any(isinstance(p, DTensor) for p in net.parameters())
        whole_only = split and issubclass(cls, torch.optim.SGD)  # torch has no rule for this kernel
        return cls(groups, **options, **({} if whole_only else fused))

    return make
