# SPDX-License-Identifier: Apache-2.0
"""Whole weights, out of the shares of all processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from diffnext.distributed import env as processes
from diffnext.engine.backends.base import Backend
from diffnext.engine.ema import EMA


@torch.no_grad()
def whole_network(
    backend: Backend,
    role: str,
    ema: EMA | None,
    *,
    dtype: torch.dtype = torch.float32,
    wanted: bool = True,
) -> dict[str, Tensor]:
    """All that a network saves, averaged if there is an average, for reading. Collective.

    Args:
        dtype: of its floating point numbers.
        wanted: whether this process keeps it; one that does not needs memory for a tensor at a time.

    Returns:
        Tensors on the device of the backend; of live weights and averages where those are like that.
    """
    learning = set(backend.learners[role].named_learning())
    fixed = {k: v for k, v in backend.weights(role).items() if k not in learning}
    moving = backend.weights(role, learning=True) if ema is None else ema.tensors()
    device, whole = backend.env.device, {}
    for name, tensor in _one_by_one(fixed | moving, device, dtype):
        if wanted:
            whole[name] = tensor
    return whole


def _one_by_one(
    shares: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors on all processes, in one order."""
    for name, share in sorted(shares.items()):
        if isinstance(share, DTensor):
            yield name, share.full_tensor().to(device, _type(share, dtype))
    plain = {name: share for name, share in shares.items() if not isinstance(share, DTensor)}
    held = processes.gather({n: (t.shape, _type(t, dtype)) for n, t in plain.items()})
    for name in sorted(set().union(*held)):
        owner = next(rank for rank, names in enumerate(held) if name in names)
        shape, kind = held[owner][name]
        if owner == processes.rank():
            tensor = plain[name].detach().to(device, kind).contiguous()
        else:
            tensor = torch.empty(shape, dtype=kind, device=device)
        if len(held) > 1:
            dist.broadcast(tensor, owner)
        yield name, tensor


def _type(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype
