# SPDX-License-Identifier: Apache-2.0
"""How processes are arranged: copies of a network, each split over the processes of a shard group."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from diffnext.distributed import env


def make_mesh(device_type: str, *, replicate: int = 1) -> DeviceMesh:
    """Arrange all processes as `replicate` copies; neighbours in rank share one copy.

    Args:
        device_type: "cpu" or "cuda".
        replicate: number of copies. 1 splits a network over all processes.

    Returns:
        A mesh with the axis "shard", or with "replicate" and "shard".

    Raises:
        ValueError: the number of processes is not a multiple of `replicate`.
    """
    world = env.world_size()
    check_replicas(replicate, world)
    if replicate == 1:
        return init_device_mesh(device_type, (world,), mesh_dim_names=("shard",))
    shape = (replicate, world // replicate)
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))


def check_replicas(replicate: int, world: int) -> None:
    """Compare the number of copies with that of the processes.

    Raises:
        ValueError: the number of processes is not a multiple of `replicate`.
    """
    if replicate < 1 or world % replicate:
        raise ValueError(
            f"PARALLEL.CONFIG replicate is {replicate}; it must divide the number of processes, {world}"
        )
