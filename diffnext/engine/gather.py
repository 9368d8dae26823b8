# SPDX-License-Identifier: Apache-2.0
"""Whole weights, out of the shares of all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

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

    Raises:
        torch.OutOfMemoryError: this process has no room for it; the others have theirs all the same.
        RuntimeError: it has none for a single tensor, which the others wait for.
    """
    learning = set(backend.learners[role].named_learning())
    fixed = {k: v for k, v in backend.weights(role).items() if k not in learning}
    moving = backend.weights(role, learning=True) if ema is None else ema.tensors()
    shelf = _Shelf(wanted)
    try:
        for name, tensor, kind in _one_by_one(fixed | moving, backend.env.device, dtype, shelf):
            shelf.keep(name, tensor, backend.env.device, kind)
    except torch.OutOfMemoryError as error:
        if processes.world_size() == 1:
            raise
        raise RuntimeError(
            f"no memory for a single whole tensor of {role}, which the other processes wait for; "
            f"SAMPLE.EVERY 0 needs none ({error})"
        ) from error
    if shelf.error is not None:
        raise shelf.error
    return shelf.kept


class _Shelf:
    """Keeps tensors while there is memory for them, and from then on none: messages must go on.

    Args:
        wanted: whether anything is kept at all.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.kept: dict[str, Tensor] = {}
        self.error: torch.OutOfMemoryError | None = None

    def keep(self, name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        try:
            if self.wanted:
                self.kept[name] = tensor.to(device, dtype)
        except torch.OutOfMemoryError as error:
            self._clear(error)

    def beside(self, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returns, which may take the room of all that is kept."""
        try:
            return make()
        except torch.OutOfMemoryError as error:
            if not self.kept:
                raise
            self._clear(error)
        return make()

    def _clear(self, error: torch.OutOfMemoryError) -> None:
        self.error = error.with_traceback(None)  # whose frames hold tensors
        self.wanted = False
        self.kept.clear()


def _one_by_one(
    shares: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype, shelf: _Shelf
) -> Iterator[tuple[str, Tensor, torch.dtype]]:
    """Whole tensors on all processes, in one order, with the types that are wanted of them."""
    for name, share in sorted(shares.items()):
        if isinstance(share, DTensor):
            yield name, shelf.beside(share.full_tensor), _type(share, dtype)
    plain = {name: share for name, share in shares.items() if not isinstance(share, DTensor)}
    held = processes.gather({n: (t.shape, _type(t, dtype)) for n, t in plain.items()})
    for name in sorted(set().union(*held)):
        owner = next(rank for rank, names in enumerate(held) if name in names)
        shape, kind = held[owner][name]
        mine = partial(torch.empty, shape, dtype=kind, device=device)
        if owner == processes.rank():
            mine = partial(_whole, plain[name], device, kind)
        tensor = shelf.beside(mine)
        if len(held) > 1:
            dist.broadcast(tensor, owner)
        yield name, tensor, kind


def _whole(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(device, dtype).contiguous()


def _type(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype
