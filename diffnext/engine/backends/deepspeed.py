# SPDX-License-Identifier: Apache-2.0
"""DeepSpeed: optimizer state, gradients and weights split by the stages of ZeRO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diffnext.distributed import env as processes
from diffnext.distributed.env import Env
from diffnext.engine.backends import BACKENDS
from diffnext.engine.backends.base import (
    PRECISIONS,
    Backend,
    Learner,
    TensorReader,
    check_names,
    warn_without_gradient,
)
from diffnext.engine.backends.deepspeed_config import zero_stage
from diffnext.engine.backends.steps import set_lr
from diffnext.engine.backends.zero import Engine, full_shape, load_deepspeed
from diffnext.engine.optim import OptimizerFactory
from diffnext.engine.scaler import ZeroScale


def check_float16() -> None:
    """Refuse float16 where DeepSpeed has none, such as on most CPUs; stage 0 does not ask it.

    Raises:
        ValueError: there is none here, or deepspeed is not installed.
    """
    if not load_deepspeed().accelerator.get_accelerator().is_fp16_supported():
        raise ValueError(
            "MODEL.PRECISION is 'float16', which DeepSpeed does not have on the devices of this machine "
            "from stage 1 of ZeRO on; take 'bfloat16', or stage 0"
        )


class Autocast(nn.Module):
    """A network that computes in low precision by itself.

    DeepSpeed switches off an autocast of CUDA that its engine is called in, and leaves one of the
    CPU alone. From within, precision is the same on both.
    """

    def __init__(self, net: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = net
        self.device = device
        self.dtype = dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        enabled = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=enabled):
            return self.net(*args, **kwargs)


class Entrance(nn.Module):
    """What a method calls: the engine, or the network alone while another role's loss passes through.

    An engine expects that a backward through it is its own.
    """

    def __init__(self, engine: nn.Module, inside: nn.Module) -> None:
        super().__init__()
        self.engine = engine
        self.inside = inside
        self._still = False

    @contextmanager
    def holding_still(self) -> Iterator[None]:
        """Within, the engine hears of nothing."""
        self._still = True
        try:
            yield
        finally:
            self._still = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        called = self.inside if self._still else self.engine
        return called(*args, **kwargs)


@BACKENDS.register("deepspeed")
class DeepSpeedBackend(Backend):
    """One DeepSpeed engine for each role that learns, with the optimizer of the run.

    From stage 1 on DeepSpeed keeps float32 masters apart and holds the network in `precision`; at
    stage 0 the network itself is the float32 master, as in the other backends. At every stage each
    network enters its own autocast, see `Autocast`. At stages 2 and 3 each micro-batch is reduced
    to the process that owns its part of the gradient.

    Args:
        env, precision: as in Backend.
        config: DeepSpeed's configuration, made by `merge_config`.
    """

    def __init__(
        self, env: Env, *, precision: str = "bfloat16", config: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(env, precision=precision)
        self.config = dict(config or {})
        self.stage = zero_stage(self.config)
        self.grad_scaling = self.stage == 0
        processes.init_alone()

    def _wrap(self, net: nn.Module, optimizer: OptimizerFactory | None) -> Learner:
        inside = Autocast(net, self.env.device, PRECISIONS[self.precision])
        if optimizer is None:
            return Learner(net.to(self.env.device), inside)
        deepspeed = load_deepspeed()
        net = net.to(self.env.device)
        learning = {name: p for name, p in net.named_parameters() if p.requires_grad}
        fixed = {n: v.detach().clone() for n, v in net.state_dict().items() if n not in learning}
        made = optimizer(net)
        engine, _, _, _ = deepspeed.initialize(
            model=inside, optimizer=made, config=self.config, dist_init_required=False
        )
        wrapped = Entrance(engine, inside)
        learner = Engine(net, wrapped, made, engine=engine, stage=self.stage, fixed=fixed)
        scaler = getattr(engine.optimizer, "loss_scaler", None)
        if scaler is not None and scaler.dynamic:
            learner.scaler = ZeroScale(scaler)
        for name, param in learning.items():
            learner.watches.append(param.register_hook(partial(_note, learner.reached, name)))
        return learner

    def autocast(self) -> torch.autocast:
        """Around a forward: nothing, since each network enters its own."""
        return torch.autocast(self.env.device.type, enabled=False)

    @contextmanager
    def micro(self, role: str, *, last: bool) -> Iterator[None]:
        learner = self.learners[role]
        if isinstance(learner, Engine):
            learner.engine.set_gradient_accumulation_boundary(last)
        with super().micro(role, last=last), ExitStack() as stack:
            for other in self._others(role):
                stack.enter_context(other.wrapped.holding_still())
            yield

    def backward(self, role: str, loss: Tensor) -> None:
        scaler = self.learners[role].scaler
        if self.grad_scaling and scaler is not None:
            loss = loss * scaler.scale
        self.learners[role].engine.backward(loss, scale_wrt_gas=False)

    def step(self, role: str, *, lr: float, max_norm: float) -> Tensor:
        self._check_gradients(role)
        if self.stage == 0:
            return super().step(role, lr=lr, max_norm=max_norm)
        engine = self.learners[role].engine
        set_lr(engine.optimizer, lr)
        engine.step()
        norm = float("inf") if engine.optimizer.overflow else engine.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self.env.device)

    def _check_gradients(self, role: str) -> None:
        """DeepSpeed takes gradients away as they come, so their arrival was noted."""
        learner = self.learners[role]
        if learner.checked:
            return
        learning = learner.named_learning()
        warn_without_gradient(role, [n for n in learning if n not in learner.reached], learning)
        for watch in learner.watches:
            watch.remove()
        learner.watches.clear()
        learner.checked = True

    def weights(self, role: str, *, learning: bool = False) -> dict[str, Tensor]:
        learner = self.learners[role]
        masters = self._gather(learner, learner.master)
        if learning:
            return masters
        return masters | self._share(learner.fixed)

    @contextmanager
    def swapped(self, role: str, weights: Mapping[str, Tensor]) -> Iterator[None]:
        learner, own = self.learners[role], self._own(role)
        for i, (name, param) in enumerate(sorted(learner.named_learning().items())):
            value = torch.empty(full_shape(param), device=self.env.device)
            if name in weights:
                value.copy_(weights[name])
            dist.broadcast(value, src=i % self.env.world)
            learner.put_copy(param, value)
        try:
            yield
        finally:
            for name, param in learner.named_learning().items():
                learner.put_copy(param, own[name] if own else learner.master(param))

    def _own(self, role: str) -> dict[str, Tensor]:
        """A copy of the weights where the network is the master itself."""
        if self.stage > 0:
            return {}
        return {
            name: p.detach().clone() for name, p in self.learners[role].named_learning().items()
        }

    def pieces(self, role: str) -> list[Tensor]:
        if self.stage == 0:
            return super().pieces(role)
        return [piece.detach() for piece in self.learners[role].flat()]

    def optimizer_state(self, role: str) -> dict[str, Tensor]:
        if self.stage == 0:
            return self._share(super().optimizer_state(role))
        learner = self.learners[role]
        learner.link()
        state: dict[str, Tensor] = {}
        flat = learner.flat()[0]
        # sorted: in a dict that was filled from a set, each process has an order of its own, and sums of
        # different fields would be mixed
        for key, value in sorted(learner.optimizer.state.get(flat, {}).items()):
            if value.shape == flat.shape:
                full = self._gather(learner, partial(learner.state_of, key=key))
            else:
                full = self._share(dict.fromkeys(learner.named_learning(), value))
            state |= {f"{name}.{key}": tensor for name, tensor in full.items()}
        return state

    def load(self, role: str, weights: TensorReader, optimizer: TensorReader) -> None:
        learner = self.learners[role]
        learning = learner.named_learning()
        check_names(role, {**learning, **learner.fixed}, weights.shapes())
        if self.stage == 0:
            self._load_optimizer(role, optimizer)
        weights.read(learner.fixed)
        learner.put_fixed()
        for name, param in learning.items():
            value = torch.empty(full_shape(param), device=self.env.device)
            weights.read({name: value})
            learner.put_master(param, value)
        if self.stage > 0:
            learner.fill_state(optimizer, self.env.device)

    def _gather(self, learner: Learner, get: Callable[[nn.Parameter], Tensor]) -> dict[str, Tensor]:
        """Whole tensors, one by one; each stays on the process that it belongs to."""
        found: dict[str, Tensor] = {}
        for i, (name, param) in enumerate(sorted(learner.named_learning().items())):
            value = get(param)
            if i % self.env.world == self.env.rank:
                found[name] = value.detach()
        return found


def _note(reached: set[str], name: str, grad: Tensor) -> None:
    reached.add(name)
