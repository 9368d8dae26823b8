# SPDX-License-Identifier: Apache-2.0
"""How many bytes a run holds on each device, and how many in the memory of the host."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

from diffnext.engine.optim import OptimizerFactory
from diffnext.engine.sharding import Sharding
from diffnext.engine.traffic import bytes_of, traffic_of

PARTS = ("weights", "gathered", "gradients", "buffers", "optimizer", "average", "activations")


@dataclass(frozen=True)
class Need:
    """Bytes of one process."""

    weights: int
    gathered: int  # weights in use that other processes own
    gradients: int
    buffers: int  # that gradients are exchanged through
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


def estimate(
    net: nn.Module,
    make: OptimizerFactory,
    sharding: Sharding,
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
    learning = sum(p.numel() for p in net.parameters() if p.requires_grad)
    parts = 1 if sharding.backend == "single" else sharding.shards
    weights, gradients, optimizer = map(round, _held(net, sharding, state_bytes(make)))
    carried = 0
    if averages and average_on_host:  # one more copy carries weights to the host
        cut = parts if sharding.backend == "fsdp" else 1  # others share whole tensors out
        sizes = [round(4 * p.numel() / cut) for p in net.parameters() if p.requires_grad]
        carried = round(sum(map(pinned_bytes, sizes)) * cut / parts)
    traffic = traffic_of(net, sharding)
    return Need(
        weights=weights,
        gathered=traffic.gathered,
        gradients=gradients,
        buffers=max(traffic.backward, traffic.update - activations - traffic.gathered),
        optimizer=optimizer,
        average=round(4 * learning * averages / parts) + carried,
        activations=activations,
        host=sharding.host + (("average",) if average_on_host else ()),
    )


def _held(net: nn.Module, sharding: Sharding, state: float) -> tuple[float, float, float]:
    """Bytes of weights, with all that does not learn, of gradients, and of the optimizer with its masters.

    Args:
        state: bytes that the optimizer keeps for each weight.
    """
    every = sum(p.numel() for p in net.parameters())
    learning = sum(p.numel() for p in net.parameters() if p.requires_grad)
    buffers = sum(buffer.nbytes for buffer in net.buffers())
    if sharding.backend == "fsdp":
        parts = sharding.shards
        return 4 * every / parts + buffers, 4 * learning / parts, state * learning / parts
    if sharding.backend == "deepspeed":  # what does not learn is kept in its own precision too
        buffers += 4 * (every - learning) + buffers
    if sharding.stage == 0:
        return 4 * every + buffers, 4 * learning, state * learning
    size, parts = bytes_of(sharding.precision), sharding.shards
    weights = size * every / (parts if sharding.stage == 3 else 1) + buffers
    gradients = size * learning / (1 if sharding.whole_gradients else parts)
    if "optimizer" in sharding.host:  # gradients become float32, and weights lie to be sent back
        gradients = (size + 4) * learning / parts
    return weights, gradients, (4 + state) * learning / parts


def pinned_bytes(size: int) -> int:
    """What a page-locked block takes: PyTorch rounds it up to a power of two, to use it again."""
    return 1 << (size - 1).bit_length() if size else 0


def shortage(need: Need, *, processes: int, sharding: Sharding | None = None) -> str:
    """Why this will not fit; "" if it may.

    Args:
        processes: on this machine; without a GPU they share its memory.
        sharding: says whether a network that does not fit could be split.
    """
    on_gpu = torch.cuda.is_available()
    wanted = need.on_device if on_gpu else need.total * processes
    have = capacity_bytes()
    if wanted < have or have == 0:
        return ""
    place = "the GPU" if on_gpu else "this machine, which has no GPU,"
    told = f"{place} has {mib(have)}, too few for {mib(wanted)}"
    if sharding is not None and sharding.backend == "fsdp" and sharding.shards == 1:
        told += (
            f"; replicate {sharding.replicate} of {sharding.world} processes splits nothing: "
            "take a smaller PARALLEL.CONFIG.replicate"
        )
    if sharding is not None and sharding.backend == "ddp" and sharding.world > 1:
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
