# SPDX-License-Identifier: Apache-2.0
"""A running average of the weights, in float32, next to the network or in the memory of the host."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor


class EMA:
    """average <- decay * average + (1 - decay) * weights, for this process's share of the weights.

    Args:
        weights: what is averaged, by name; a sharded tensor (DTensor) is averaged shard by shard.
        decay: of one update, in (0, 1).
        device: where the average is kept.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], *, decay: float, device: torch.device | str
    ) -> None:
        check_decay(decay)
        self.decay = decay
        self.device = torch.device(device)
        self._names = list(weights)
        self._average = [self._local(w).float().clone() for w in weights.values()]
        meshes: dict[DeviceMesh, DeviceMesh] = {}  # of the weights -> of the average
        self._tensors = {
            name: _wrap(average, weights[name], self.device, meshes)
            for name, average in zip(self._names, self._average, strict=True)
        }

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Move the average towards `weights`, which have the names and shapes of the first ones."""
        current = [self._local(weights[name]).float() for name in self._names]
        torch._foreach_lerp_(self._average, current, 1.0 - self.decay)

    def tensors(self) -> dict[str, Tensor]:
        """The live average by name, sharded as the weights are: to be saved, or filled by a load."""
        return dict(self._tensors)

    def _local(self, weight: Tensor) -> Tensor:
        if isinstance(weight, DTensor):
            weight = weight.to_local()
        return weight.detach().to(self.device)


def check_decay(decay: float) -> None:
    """Refuse a decay that is not in (0, 1)."""
    if not 0 < decay < 1:
        raise ValueError(f"TRAIN.MODEL_EMA is {decay}; a decay lies between 0 and 1, 0 keeps none")


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
