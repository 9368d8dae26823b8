# SPDX-License-Identifier: Apache-2.0
"""Which copies go from the host to a device, and whether the host waits for them."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NOWHERE = torch.device("meta")  # stands for a GPU


class Transfers(TorchDispatchMode):
    """Notes each copy between devices as (shape, whether the host goes on at once)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default:
            self._note(args[0], kwargs.get("device"), kwargs.get("non_blocking", False))
        if func is torch.ops.aten.copy_.default:
            self._note(args[1], args[0].device, (*args, False)[2])
        return func(*args, **kwargs)

    def _note(self, source: torch.Tensor, device: torch.device | None, free: bool) -> None:
        if device is not None and source.device != device:
            self.seen.append((tuple(source.shape), free))
