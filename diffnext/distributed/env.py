# SPDX-License-Identifier: Apache-2.0
"""Which process this is, on which device; the process group begins and ends here."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist

from diffnext.distributed.launched import VARIABLES, is_worker

A = TypeVar("A")


@dataclass(frozen=True)
class Env:
    """One process among `world`."""

    rank: int
    world: int
    local_rank: int
    device: torch.device
    began: float = field(
        default_factory=time.monotonic, compare=False
    )  # s, of this machine's clock

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the console."""
        return self.rank == 0


def init(*, gpu_id: int = 0, timeout_s: float = 1800.0) -> Env:
    """Take a device; join the process group if there are several processes.

    Args:
        gpu_id: the device of a process that started by itself; others take their local rank's, as
            DeepSpeed does.
        timeout_s: how long a collective waits for a late process.
    """
    rank, world, local_rank = 0, 1, 0
    if is_worker():
        rank, world, local_rank = (int(os.environ[name]) for name in VARIABLES)
    device = take_device(local_rank if is_worker() else gpu_id)
    if world > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        timeout = datetime.timedelta(seconds=timeout_s)
        store = _store(rank, world, timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    return Env(rank, world, local_rank, device)


def _store(rank: int, world: int, timeout: datetime.timedelta) -> dist.Store:
    """Where processes find each other.

    When torchrun starts them again (--max-restarts) its store still holds the addresses of those
    that are gone; torch 2.13 gives no attempt a part of its own.
    """
    store, _, _ = next(dist.rendezvous("env://", rank, world, timeout=timeout))
    store.set_timeout(timeout)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"attempt_{attempt}", store)


def init_alone() -> None:
    """Make a process group of this process only, where a library insists on having one."""
    if dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def rank() -> int:
    """The number of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def broadcast(value: object) -> object:
    """Rank 0's value, on every process. `value` must be picklable."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: A) -> list[A]:
    """What each process brings, in the order of ranks, on all of them. Picklable and small. Collective."""
    if world_size() == 1:
        return [value]
    values = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def agree(error: Exception | None) -> None:
    """Raise on all processes what some of them have met. Collective.

    Raises:
        ValueError: all messages, each once; those that not all processes have met with their ranks.
    """
    if world_size() == 1:
        if error is not None:
            raise error
        return
    told = gather(None if error is None else str(error))
    ranks: dict[str, list[int]] = {}
    for number, message in enumerate(told):
        if message is not None:
            ranks.setdefault(message, []).append(number)
    lines = [
        message if len(met) == len(told) else f"{message} (met by rank {listed(met)})"
        for message, met in ranks.items()
    ]
    if lines:
        raise ValueError("\n".join(lines)) from error


def agree_with_first(error: Exception | None) -> None:
    """Raise on all processes what the first one, which alone has looked, has met. Collective.

    Raises:
        ValueError: its message, on the others.
    """
    told = broadcast(None if error is None else str(error))
    if told is not None:
        raise error or ValueError(told)


def listed(numbers: Sequence[int]) -> str:
    """A few of many numbers, for a message."""
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The average of a tensor over the processes; the tensor itself with one process."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def shutdown() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def take_device(index: int) -> torch.device:
    """The GPU of a number, which torch uses from now on; the CPU where there is none.

    Raises:
        ValueError: there are fewer GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if index >= count:
        raise ValueError(
            f"process needs GPU {index} (GPU_ID or local rank), the machine has {count}"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
