# SPDX-License-Identifier: Apache-2.0
"""How many bytes a run holds on each device for its weights and what belongs to them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

from diffnext.engine.optim import OptimizerFactory


@dataclass(frozen=True)
class Need:
    """Bytes on one device; what the forward keeps for backward comes on top."""

    weights: int
    gradients: int
    optimizer: int
    average: int  # on the device or on the host, as TRAIN.DEVICE_EMA says

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimizer", "average", "total")
        return ", ".join(f"{name} {getattr(self, name) / 2**20:,.1f} MiB" for name in parts)


def estimate(
    net: nn.Module,
    make: OptimizerFactory,
    *,
    backend: str,
    world: int,
    precision: str,
    stage: int = 0,
    replicate: int = 1,
    average: bool = True,
) -> Need:
    """Count the bytes of one role that learns.

    Args:
        net: may be on the meta device.
        make: makes its optimizer.
        stage: of ZeRO; from 1 on the network is held in `precision`, beside split float32 masters.
        replicate: copies of the network among the processes of fsdp.
    """
    every = sum(p.numel() for p in net.parameters())
    learning = sum(p.numel() for p in net.parameters() if p.requires_grad)
    states = 4 * state_per_weight(make)
    if backend == "fsdp":
        shards = max(world // replicate, 1)
        sizes = [4 * every, 4 * learning, states * learning, 4 * learning * average]
        return Need(*(round(size / shards) for size in sizes))
    if stage == 0:
        mean = round(4 * learning * average / (world if backend in ("ddp", "deepspeed") else 1))
        return Need(4 * every, 4 * learning, round(states * learning), mean)
    size = 4 if precision == "float32" else 2
    return Need(
        weights=round(size * every / (world if stage == 3 else 1)),
        gradients=round(size * learning / (world if stage >= 2 else 1)),
        optimizer=round((4 + states) * learning / world),
        average=round(4 * learning * average / world),
    )


def shortage(need: Need, *, average_on_host: bool, processes: int) -> str:
    """Why this will not fit; "" if it may.

    Args:
        average_on_host: whether the average is kept away from the GPU.
        processes: on this machine; without a GPU they share its memory.
    """
    on_gpu = torch.cuda.is_available()
    bytes_needed = need.total * (1 if on_gpu else processes)
    if on_gpu and average_on_host:
        bytes_needed -= need.average
    have = capacity_bytes()
    if bytes_needed < have or have == 0:
        return ""
    place = "the GPU" if on_gpu else "this machine, which has no GPU,"
    return f"{place} has {have / 2**20:,.1f} MiB, too few for {bytes_needed / 2**20:,.1f} MiB"


def capacity_bytes() -> int:
    """Memory of the GPU in use, or of the machine if there is none; 0 if the system does not tell."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties().total_memory
    if not hasattr(os, "sysconf"):  # Windows
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def state_per_weight(make: OptimizerFactory) -> float:
    """Numbers that an optimizer keeps for each weight, found by one step of a small network."""
    net = nn.Linear(64, 64)
    optimizer = make(net)
    for param in net.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    kept = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    large = sum(value.numel() for value in kept if value.numel() > 1)
    return round(large / sum(p.numel() for p in net.parameters()), 2)
