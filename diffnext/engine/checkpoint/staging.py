# SPDX-License-Identifier: Apache-2.0
"""Copies of the run's tensors in the memory of the host: training goes on while these are written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from diffnext.engine.backends.base import local
from diffnext.engine.memory import pinned_bytes


class HostCopies:
    """Takes copies; those of a GPU's tensors go to page-locked buffers that the next time uses again."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def fit(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether the host has the memory for copies, of every process of this machine."""
        if self._buffers:
            return True
        here = sum(copy_bytes(local(tensor)) for tensor in tensors.values())
        free = available_bytes()
        return free is None or here * int(os.environ.get("LOCAL_WORLD_SIZE", "1")) < 0.9 * free

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's part of each tensor, as it is now. Waits for the device."""
        copies = {name: self._copy(name, local(tensor)) for name, tensor in tensors.items()}
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.current_stream().synchronize()
        return copies

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor.clone()
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=True)
            self._buffers[name] = buffer
        return buffer.copy_(tensor, non_blocking=True)


def copy_bytes(tensor: Tensor) -> int:
    """What a copy in the memory of the host takes."""
    size = tensor.numel() * tensor.element_size()
    return pinned_bytes(size) if tensor.is_cuda else size


def size_bytes(tensors: Mapping[str, Tensor], *, first: bool) -> int:
    """Bytes that a process adds to a checkpoint; a sharded tensor is counted by the first process."""
    counted = [t for t in tensors.values() if first or not isinstance(t, DTensor)]
    return sum(t.numel() * t.element_size() for t in counted)


def available_bytes() -> int | None:
    """Memory of the host that new pages may take, also within a container; None if nothing tells."""
    found = []
    try:
        words = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(words["MemAvailable"].split()[0]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, KeyError, ValueError):
        pass  # another system, or no limit
    return min(found, default=None)
