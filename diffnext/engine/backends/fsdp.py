# SPDX-License-Identifier: Apache-2.0
"""Weights, gradients and optimizer state are split over the processes, block by block (FSDP2)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard

from diffnext.distributed import env as processes
from diffnext.distributed.env import Env
from diffnext.distributed.mesh import make_mesh
from diffnext.engine.backends import BACKENDS
from diffnext.engine.backends.base import PRECISIONS, Backend, Learner, local
from diffnext.engine.blocks import repeated_blocks
from diffnext.engine.optim import OptimizerFactory


class Sharded(Learner):
    """A network whose parameters are parts."""

    def reshard(self) -> None:
        """Put the parts in the place of whole weights that a forward without backward has left."""
        for module in self.net.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def named_learning(self) -> dict[str, nn.Parameter]:
        self.reshard()
        return super().named_learning()

    def learning(self) -> list[nn.Parameter]:
        return list(self.named_learning().values())  # after a step, whole weights would be old


@BACKENDS.register("fsdp")
class FSDPBackend(Backend):
    """Shards each repeated block of a network, then the rest of it.

    Args:
        env, precision: as in Backend.
        replicate: number of copies of the network, each split over its share of the processes.
        gather_dtype: what weights are gathered in for computing; "bfloat16" halves the traffic, and
            rounds also what autocast would keep in float32.
        reshard: free the gathered weights of a block after its forward and gather them again in
            backward; False is faster and needs the memory of the whole network.
        offload: keep the split weights, gradients and optimizer state in the memory of the host,
            where the optimizer then steps; for networks that do not fit otherwise.
    """

    def __init__(
        self,
        env: Env,
        *,
        precision: str = "bfloat16",
        replicate: int = 1,
        gather_dtype: str = "float32",
        reshard: bool = True,
        offload: bool = False,
    ) -> None:
        super().__init__(env, precision=precision)
        processes.init_alone()
        self.mesh = make_mesh(env.device.type, replicate=replicate)
        self.policy = MixedPrecisionPolicy(
            param_dtype=PRECISIONS[gather_dtype],
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        self.reshard = reshard
        self.offload = offload
        # of any network that ends in a linear layer; methods write into no prediction
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")

    def _wrap(self, net: nn.Module, optimizer: OptimizerFactory | None) -> Learner:
        net = net.to("cpu" if self.offload else self.env.device)
        for buffer in net.buffers():
            buffer.data = buffer.to(self.env.device)
        options = {
            "mesh": self.mesh,
            "mp_policy": self.policy,
            "reshard_after_forward": self.reshard,
        }
        if self.offload:
            options["offload_policy"] = CPUOffloadPolicy(pin_memory=self.env.device.type == "cuda")
        for block in repeated_blocks(net):
            fully_shard(block, **options)
        fully_shard(net, **options)
        return Sharded(net, net, optimizer(net) if optimizer else None)

    @contextmanager
    def micro(self, role: str, *, last: bool) -> Iterator[None]:
        net = self.learners[role].wrapped
        net.set_requires_gradient_sync(last)
        net.set_is_last_backward(last)
        with super().micro(role, last=last):
            yield
        for other in self._others(role):
            other.reshard()  # or its whole weights would hold still from now on

    def _norm(self, grads: list[Tensor]) -> Tensor:
        norm = torch.nn.utils.get_total_norm([local(grad) for grad in grads])
        squares = norm.square().to(self.env.device)
        dist.all_reduce(squares, group=self.mesh.get_group("shard"))
        return squares.sqrt()
