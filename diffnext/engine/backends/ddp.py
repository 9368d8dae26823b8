# SPDX-License-Identifier: Apache-2.0
"""Every process holds the whole network; gradients are averaged (DistributedDataParallel)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffnext.distributed import env as processes
from diffnext.distributed.env import Env
from diffnext.engine.backends import BACKENDS
from diffnext.engine.backends.base import Backend, Learner
from diffnext.engine.optim import OptimizerFactory

# buffers are constants: nothing to exchange each forward. torch 2.13 renamed the switch
_PARAMETERS = inspect.signature(DistributedDataParallel).parameters
_SYNC = "forward_sync_buffers" if "forward_sync_buffers" in _PARAMETERS else "broadcast_buffers"
_KEEP_BUFFERS = {_SYNC: False}


@BACKENDS.register("ddp")
class DDPBackend(Backend):
    """Replicas with averaged gradients; each process saves and averages its own part of the weights.

    Args:
        env, precision: as in Backend.
        bucket_mb: size of one message of gradients, in MiB.
        find_unused: search each step for parameters without gradient; needed only where these change.
    """

    def __init__(
        self,
        env: Env,
        *,
        precision: str = "bfloat16",
        bucket_mb: int = 25,
        find_unused: bool = False,
    ) -> None:
        super().__init__(env, precision=precision)
        self.bucket_mb = bucket_mb
        self.find_unused = find_unused

    def _wrap(self, net: nn.Module, optimizer: OptimizerFactory | None) -> Learner:
        learner = super()._wrap(net, optimizer)
        if optimizer is None:
            return learner
        processes.init_alone()
        learner.wrapped = DistributedDataParallel(
            net,
            device_ids=[self.env.device] if self.env.device.type == "cuda" else None,
            **_KEEP_BUFFERS,
            gradient_as_bucket_view=True,
            bucket_cap_mb=self.bucket_mb,
            find_unused_parameters=self.find_unused,
        )
        return learner

    @contextmanager
    def micro(self, role: str, *, last: bool) -> Iterator[None]:
        alone = [other.wrapped for other in self._others(role)]
        if not last:
            alone.append(self.learners[role].wrapped)
        with super().micro(role, last=last), ExitStack() as stack:
            for wrapped in alone:
                stack.enter_context(wrapped.no_sync())
            yield

    def _tell_missing(self, role: str, names: list[str], learning: Mapping[str, object]) -> None:
        """The gradients of a step in which some are missing have not been exchanged."""
        super()._tell_missing(role, names, learning)
        if names and not self.find_unused:
            raise ValueError(
                f"with ddp each parameter of role {role!r} needs a gradient in each step, and "
                f"{len(names)} got none, such as {names[0]!r}: freeze them, or set PARALLEL.CONFIG "
                "{find_unused: true}, which searches for them in each step"
            )

    @torch.no_grad()
    def _put_share(self, role: str, weights: Mapping[str, Tensor]) -> None:
        """Each process has other weights; all get all."""
        self._put(role, weights)
        for i, (_, param) in enumerate(sorted(self.learners[role].named_learning().items())):
            dist.broadcast(param.detach(), src=i % self.env.world)

    def weights(self, role: str, *, learning: bool = False) -> dict[str, Tensor]:
        return self._share(super().weights(role, learning=learning))

    def optimizer_state(self, role: str) -> dict[str, Tensor]:
        return self._share(super().optimizer_state(role))
