# SPDX-License-Identifier: Apache-2.0
"""Whole weights on one process, out of the shares of all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from diffnext.distributed import env as processes
from diffnext.engine.backends.base import Backend
from diffnext.engine.ema import EMA


def gather_network(backend: Backend, role: str, ema: EMA | None) -> dict[str, Tensor]:
    """All that a network saves, averaged if there is an average; see `gather`. Collective."""
    learning = set(backend.learners[role].named_learning())
    fixed = {k: v for k, v in backend.weights(role).items() if k not in learning}
    moving = backend.weights(role, learning=True) if ema is None else ema.tensors()
    return gather(fixed) | gather(moving)


@torch.no_grad()
def gather(shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors in the memory of the first process's host; nothing elsewhere. Collective.

    Args:
        shares: what this process holds by name, as `Backend.weights` gives it.
    """
    whole = {}
    for name, share in sorted(shares.items()):
        if isinstance(share, DTensor):
            whole[name] = share.full_tensor().cpu()
            if processes.rank():
                del whole[name]
    plain = {name: t.detach() for name, t in shares.items() if not isinstance(t, DTensor)}
    return whole | _collect(plain)


def _collect(shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Send tensors to the first process one by one; of those that several hold, the first one's."""
    rank, world = processes.rank(), processes.world_size()
    held: list[dict[str, tuple[torch.Size, torch.dtype]]] = [{}] * world
    mine = {name: (tensor.shape, tensor.dtype) for name, tensor in shares.items()}
    if world > 1:
        dist.all_gather_object(held, mine)
    whole = {name: tensor.cpu() for name, tensor in shares.items()} if rank == 0 else {}
    known = set(held[0])
    for sender in range(1, world):
        for name in sorted(set(held[sender]) - known):
            if rank == sender:
                dist.send(shares[name].cpu().contiguous(), 0)
            elif rank == 0:
                shape, dtype = held[sender][name]
                whole[name] = torch.empty(shape, dtype=dtype)
                dist.recv(whole[name], sender)
        known |= set(held[sender])
    return whole
