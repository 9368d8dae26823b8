# SPDX-License-Identifier: Apache-2.0
"""How many bytes a run holds on each device, and how many in the memory of the host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diffnext.engine.blocks import repeated_blocks
from diffnext.engine.optim import OptimizerFactory

_LIVE_PARAMETERS = 1_000_000_000  # DeepSpeed's default of stage3_max_live_parameters
PARTS = ("weights", "gathered", "gradients", "optimizer", "average", "activations")


@dataclass(frozen=True)
class Need:
    """Bytes of one process."""

    weights: int
    gathered: int  # what other processes own: weights in use, gradients not yet handed over
    gradients: int
    optimizer: int
    average: int
    activations: int = 0  # what the forward keeps, at the peak of the backward
    host: tuple[str, ...] = ()  # those of the parts that are in the memory of the host

    @property
    def total(self) -> int:
        return sum(getattr(self, name) for name in PARTS)

    @property
    def on_host(self) -> int:
        return sum(getattr(self, name) for name in self.host)

    @property
    def on_device(self) -> int:
        return self.total - self.on_host

    def __str__(self) -> str:
        sizes = {name: getattr(self, name) for name in PARTS}
        parts = [
            f"{name} {mib(size)}" + (" (host)" if name in self.host else "")
            for name, size in sizes.items()
            if size
        ]
        return ", ".join([*parts, f"in all {mib(self.on_device)}"])


@dataclass(frozen=True)
class Spread:
    """How a backend spreads a network.

    Args:
        stage: of ZeRO; from 1 on the network is held in `precision`, beside split float32 masters.
        replicate, reshard, gather_dtype: of fsdp.
        host: parts that are offloaded.
        live: weights that ZeRO 3 gathers at most.
        accum_steps: micro-batches of a step; fsdp keeps whole gradients until the last one.
    """

    backend: str
    world: int
    precision: str
    stage: int = 0
    replicate: int = 1
    reshard: bool = True
    gather_dtype: str = "float32"
    host: tuple[str, ...] = ()
    live: int = _LIVE_PARAMETERS
    accum_steps: int = 1

    @property
    def shards(self) -> int:
        """Processes that share one copy of the network."""
        return max(self.world // self.replicate, 1) if self.backend == "fsdp" else self.world

    @property
    def casts_weights(self) -> bool:
        """Whether a forward makes copies of float32 weights in `precision`, and backward keeps them."""
        low = self.stage > 0 or self.gather_dtype != "float32"
        return self.precision != "float32" and not low


def spread_of(
    backend: str, options: Mapping[str, Any], *, world: int, precision: str, accum_steps: int = 1
) -> Spread:
    """Read the options of a backend."""
    if backend == "fsdp":
        return Spread(
            backend,
            world,
            precision,
            replicate=options.get("replicate", 1),
            reshard=options.get("reshard", True),
            gather_dtype=options.get("gather_dtype", "float32"),
            host=("weights", "gradients", "optimizer") if options.get("offload") else (),
            accum_steps=accum_steps,
        )
    zero = options.get("config", {}).get("zero_optimization", {})
    host: tuple[str, ...] = ()
    if _offloaded(zero, "offload_optimizer"):
        host += ("gradients", "optimizer")
    if _offloaded(zero, "offload_param"):
        host += ("weights",)
    live = int(float(zero.get("stage3_max_live_parameters", _LIVE_PARAMETERS)))
    return Spread(backend, world, precision, stage=int(zero.get("stage", 0)), host=host, live=live)


def _offloaded(zero: Mapping[str, Any], section: str) -> bool:
    return (zero.get(section) or {}).get("device", "none") != "none"


def estimate(
    net: nn.Module,
    make: OptimizerFactory,
    spread: Spread,
    *,
    averages: int = 1,
    average_on_host: bool = False,
    activations: int = 0,
) -> Need:
    """Count the bytes of one role that learns.

    Args:
        net: may be on the meta device.
        make: makes its optimizer.
        averages: how many averages of the weights are kept.
        activations: bytes, see `activations.measure`.
    """
    every = sum(p.numel() for p in net.parameters())
    learning = sum(p.numel() for p in net.parameters() if p.requires_grad)
    state = state_bytes(make) * learning
    parts = 1 if spread.backend == "single" else spread.shards
    if spread.backend == "fsdp":
        sizes = [4 * every / parts, 4 * learning / parts, state / parts]
    elif spread.stage == 0:
        sizes = [4 * every, 4 * learning, state]
    else:
        size = _bytes(spread.precision)
        sizes = [
            size * every / (parts if spread.stage == 3 else 1),
            size * learning / (parts if spread.stage >= 2 else 1),
            (4 * learning + state) / parts,
        ]
    weights, gradients, optimizer = map(round, sizes)
    carried = 0
    if averages and average_on_host:  # one more copy carries weights to the host
        cut = parts if spread.backend == "fsdp" else 1  # others share whole tensors out
        sizes = [round(4 * p.numel() / cut) for p in net.parameters() if p.requires_grad]
        carried = round(sum(map(pinned_bytes, sizes)) * cut / parts)
    return Need(
        weights=weights,
        gathered=_gathered(net, spread),
        gradients=gradients,
        optimizer=optimizer,
        average=round(4 * learning * averages / parts) + carried,
        activations=activations,
        host=spread.host + (("average",) if average_on_host else ()),
    )


def _gathered(net: nn.Module, spread: Spread) -> int:
    """Weights that a process holds whole for a while: with fsdp those outside blocks, and two blocks."""
    every = sum(p.numel() for p in net.parameters())
    if spread.stage == 3:
        size = min(every, spread.live) if spread.world > 1 or "weights" in spread.host else 0
        return _bytes(spread.precision) * size
    whole = 4 * sum(p.numel() for p in net.parameters() if p.requires_grad)
    waiting = whole if spread.accum_steps > 1 and spread.shards > 1 else 0
    cast = spread.gather_dtype != "float32"
    if spread.backend != "fsdp" or (spread.shards == 1 and not cast and not spread.host):
        return 0
    blocks = [sum(p.numel() for p in block.parameters()) for block in repeated_blocks(net)]
    held = every - sum(blocks) + 2 * max(blocks, default=0) if spread.reshard else every
    return _bytes(spread.gather_dtype) * min(held, every) + waiting


def pinned_bytes(size: int) -> int:
    """What a page-locked block takes: PyTorch rounds it up to a power of two, to use it again."""
    return 1 << (size - 1).bit_length() if size else 0


def _bytes(precision: str) -> int:
    return 4 if precision == "float32" else 2


def shortage(need: Need, *, processes: int, spread: Spread | None = None) -> str:
    """Why this will not fit; "" if it may.

    Args:
        processes: on this machine; without a GPU they share its memory.
        spread: says whether a network that does not fit could be split.
    """
    on_gpu = torch.cuda.is_available()
    wanted = need.on_device if on_gpu else need.total * processes
    have = capacity_bytes()
    if wanted < have or have == 0:
        return ""
    place = "the GPU" if on_gpu else "this machine, which has no GPU,"
    told = f"{place} has {mib(have)}, too few for {mib(wanted)}"
    if spread is not None and spread.backend == "fsdp" and spread.shards == 1:
        told += (
            f"; replicate {spread.replicate} of {spread.world} processes splits nothing: "
            "take a smaller PARALLEL.CONFIG.replicate"
        )
    if spread is not None and spread.backend == "ddp" and spread.world > 1:
        told += "; ddp holds the whole run in each process, PARALLEL.BACKEND fsdp splits it"
    return told


def capacity_bytes() -> int:
    """Memory of the GPU in use, or of the machine if there is none; 0 if the system does not tell."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties().total_memory
    if not hasattr(os, "sysconf"):  # Windows
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def state_bytes(make: OptimizerFactory) -> float:
    """Bytes that an optimizer keeps for each weight, found by one step of a small network."""
    net = nn.Linear(256, 256)
    optimizer = make(net)
    for param in net.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    kept = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    large = sum(value.nbytes for value in kept if value.numel() > 1)
    return round(large / sum(p.numel() for p in net.parameters()), 1)


def mib(size: float) -> str:
    """Bytes as mebibytes."""
    return f"{size / 2**20:,.1f} MiB"
