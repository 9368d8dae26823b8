# SPDX-License-Identifier: Apache-2.0
"""Running averages of the weights, in float32, next to the network or in the memory of the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from diffnext.engine.backends.base import Backend, local
from diffnext.utils.threads import one_thread


class EMA:
    """average <- decay * average + (1 - decay) * weights, for this process's share of the weights.

    Averages that are kept apart from the network are updated in the background: the device copies
    the weights out in its own order, and a thread of the host waits for the copy and moves the averages.

    Args:
        weights: what is averaged, by name; a sharded tensor (DTensor) is averaged shard by shard.
        decays: one average each, of one update, in (0, 1). The first one is the average that others load.
        device: where the averages are kept.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], *, decays: Sequence[float], device: torch.device | str
    ) -> None:
        check_decays(decays)
        self.decays = tuple(decays)
        self.device = torch.device(device)
        self._names = list(weights)
        current = [local(weight) for weight in weights.values()]
        self._averages = [
            [w.to(self.device, torch.float32, copy=True) for w in current] for _ in decays
        ]
        meshes: dict[DeviceMesh, DeviceMesh] = {}  # of the weights -> of the averages
        self._tensors = [
            {
                name: _wrap(value, weights[name], self.device, meshes)
                for name, value in zip(self._names, average, strict=True)
            }
            for average in self._averages
        ]
        apart = self.device.type == "cpu" and any(w.is_cuda for w in current)
        self._staging = Staging(current) if apart else None
        self._update: Future[None] | None = None  # that runs in the background

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Move the averages towards `weights`, which have the names and shapes of the first ones."""
        current = [local(weights[name]) for name in self._names]
        self.wait()
        if self._staging is None:
            self._move(current)
        else:
            self._update = self._staging.copy(current, then=self._move)

    def wait(self) -> None:
        """Wait for an update in the background; its error is raised here."""
        if self._update is not None:
            update, self._update = self._update, None
            update.result()

    def tensors(self, decay: float | None = None) -> dict[str, Tensor]:
        """A live average by name, sharded as the weights are: to be saved, or filled by a load.

        Args:
            decay: one of `decays`; the first one if it is not given.
        """
        self.wait()
        return dict(self._tensors[0 if decay is None else self.decays.index(decay)])

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """All averages by what they are called in a checkpoint."""
        names = part_names(self.decays)
        return {name: self.tensors(decay) for name, decay in zip(names, self.decays, strict=True)}

    @contextmanager
    def applied(self, backend: Backend, role: str, decay: float | None = None) -> Iterator[None]:
        """Within, the role's network computes with an average; its own come back exactly. Collective."""
        with backend.swapped(role, self.tensors(decay)):
            yield

    @torch.no_grad()
    def _move(self, current: Sequence[Tensor]) -> None:
        current = [weight.to(self.device, torch.float32) for weight in current]
        for decay, average in zip(self.decays, self._averages, strict=True):
            torch._foreach_lerp_(average, current, 1.0 - decay)


class Staging:
    """Buffers of the host that a device copies tensors to, and the thread that then works on them.

    Args:
        like: tensors of the shapes and types to come.
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        self._on_gpu = any(tensor.is_cuda for tensor in like)
        self._buffers = [
            torch.empty_like(tensor, device="cpu", pin_memory=self._on_gpu) for tensor in like
        ]
        self._thread = one_thread("average")

    def copy(
        self, tensors: Sequence[Tensor], *, then: Callable[[Sequence[Tensor]], None]
    ) -> Future[None]:
        """Copy when the device comes to it; the thread calls `then` with the copies. Does not wait."""
        torch._foreach_copy_(self._buffers, tensors, non_blocking=True)
        copied = torch.cuda.Event() if self._on_gpu else None
        if copied is not None:
            copied.record()

        def work() -> None:
            if copied is not None:
                copied.synchronize()
            then(self._buffers)

        return self._thread.submit(work)


def part_names(decays: Sequence[float]) -> list[str]:
    """What averages are called in a checkpoint: "ema", and "ema_<decay>" for further ones."""
    return ["ema", *(f"ema_{decay}" for decay in decays[1:])] if decays else []


def check_decays(decays: Sequence[float]) -> None:
    """Refuse a decay that is not in (0, 1), and one that comes twice."""
    for number, decay in enumerate(decays):
        if not 0 < decay < 1:
            key = "TRAIN.EXTRA_EMA has" if number else "TRAIN.MODEL_EMA is"
            raise ValueError(f"{key} {decay}; a decay lies between 0 and 1, 0 keeps none")
    if len(set(decays)) < len(decays):
        raise ValueError(f"TRAIN.MODEL_EMA and TRAIN.EXTRA_EMA have a decay twice: {list(decays)}")


def _wrap(
    average: Tensor, weight: Tensor, device: torch.device, meshes: dict[DeviceMesh, DeviceMesh]
) -> Tensor:
    """Give a local average the sharding of its weight; the memory is shared."""
    if not isinstance(weight, DTensor):
        return average
    mesh = weight.device_mesh
    if mesh.device_type != device.type:
        if mesh not in meshes:  # making one is a collective
            names = mesh.mesh_dim_names
            meshes[mesh] = DeviceMesh(device.type, mesh.mesh, mesh_dim_names=names)
        mesh = meshes[mesh]
    return DTensor.from_local(
        average,
        mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )
