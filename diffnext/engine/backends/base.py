# SPDX-License-Identifier: Apache-2.0
"""What the loop asks of the machinery below a network; this class serves one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from diffnext.distributed.env import Env
from diffnext.engine.backends import BACKENDS
from diffnext.engine.backends.steps import as_tensor, begin_state, set_lr, update
from diffnext.engine.heap import trim_while_training
from diffnext.engine.optim import OptimizerFactory
from diffnext.engine.scaler import LossScaler, ZeroScale
from diffnext.utils.logging import logger

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class TensorReader(Protocol):
    """A saved set of named tensors."""

    def shapes(self) -> Mapping[str, torch.Size]:
        """Name and full shape of everything that is there."""

    def read(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors in place; a sharded one gets its own part."""


@dataclass
class Learner:
    """A network of the run. One that learns has an optimizer."""

    net: nn.Module  # with published names
    wrapped: nn.Module  # what the method calls
    optimizer: torch.optim.Optimizer | None = None
    scaler: LossScaler | ZeroScale | None = None
    checked: bool = field(default=False)  # whether missing gradients were looked for

    _learning: list[nn.Parameter] | None = field(default=None, init=False, repr=False)

    def named_learning(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.net.named_parameters() if p.requires_grad}

    def learning(self) -> list[nn.Parameter]:
        """The same without names, searched for once: among 600 tensors that takes a millisecond."""
        if self._learning is None:
            self._learning = list(self.named_learning().values())
        return self._learning


@BACKENDS.register("single")
class Backend:
    """Owns networks and their optimizers by role. This base class is the backend of one process.

    Master weights are float32; `precision` is what matrix products are computed in.

    Args:
        env: this process.
        precision: "float32", "bfloat16" or "float16" (with loss scaling).
    """

    grad_scaling = True  # whether float16 uses the scaler of this class

    def __init__(self, env: Env, *, precision: str = "bfloat16") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"MODEL.PRECISION is {precision!r}; there are {sorted(PRECISIONS)}")
        self.env = env
        self.precision = precision
        self.learners: dict[str, Learner] = {}

    def add(self, role: str, net: nn.Module, optimizer: OptimizerFactory | None) -> nn.Module:
        """Take a network in; return the callable that methods use.

        Args:
            net: with float32 weights, equal on all processes.
            optimizer: makes the optimizer of a role that learns; None for the others.
        """
        low = {p.dtype for p in net.parameters() if p.requires_grad} - {torch.float32}
        if optimizer is not None and low:
            raise ValueError(f"role {role!r} learns with {low} weights; masters are float32")
        learner = self._wrap(net, optimizer)
        if optimizer is not None and self.precision == "float16" and self.grad_scaling:
            learner.scaler = LossScaler(self.env.device)
        self.learners[role] = learner
        return learner.wrapped

    def _wrap(self, net: nn.Module, optimizer: OptimizerFactory | None) -> Learner:
        net = net.to(self.env.device)
        if optimizer is not None:
            trim_while_training(net)
        return Learner(net, net, optimizer(net) if optimizer else None)

    @contextmanager
    def micro(self, role: str, *, last: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch; gradients are exchanged only on the last.

        Within, the networks of other roles hold still: a loss that passes through them leaves no
        gradient there.
        """
        others = [p for other in self._others(role) for p in other.learning()]
        for param in others:
            param.requires_grad_(False)
        try:
            yield
        finally:
            for param in others:
                param.requires_grad_(True)

    def _others(self, role: str) -> list[Learner]:
        """The networks of other roles that learn."""
        return [v for k, v in self.learners.items() if k != role and v.optimizer is not None]

    def autocast(self) -> torch.autocast:
        """Around a forward: computes in `precision`."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.env.device.type, dtype=dtype, enabled=dtype != torch.float32)

    def backward(self, role: str, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the role."""
        scaler = self.learners[role].scaler
        if scaler is not None:
            loss = loss * scaler.scale
        loss.backward()

    def step(self, role: str, *, lr: float, max_norm: float) -> Tensor:
        """Clip over all shards, update the weights unless the norm is not finite, drop the gradients.

        Args:
            lr: learning rate of this step.
            max_norm: largest global 2-norm of the gradients; 0 does not clip.

        Returns:
            The global norm before clipping, a scalar on the device.
        """
        learner = self.learners[role]
        grads = self._gradients(role)
        norm = self._norm(grads)
        divisor = None
        if learner.scaler is not None:
            norm = norm / learner.scaler.scale
            divisor = learner.scaler.scale
        if max_norm > 0:
            excess = ((norm + 1e-6) / max_norm).clamp(min=1.0)
            divisor = excess if divisor is None else divisor * excess
        overflow = (~norm.isfinite()).float()
        set_lr(learner.optimizer, lr)
        place = grads[0].device  # that of the kernel that steps
        divisor = None if divisor is None else divisor.to(place)
        update(learner.optimizer, grads, divisor=divisor, overflow=overflow.to(place))
        learner.optimizer.zero_grad(set_to_none=True)
        if learner.scaler is not None:
            learner.scaler.update(overflow)
        return norm

    def _gradients(self, role: str) -> list[Tensor]:
        learner = self.learners[role]
        if not learner.checked:
            learning = learner.named_learning()
            missing = [name for name, p in learning.items() if p.grad is None]
            self._tell_missing(role, missing, learning)
            learner.checked = True
        return [p.grad for p in learner.learning() if p.grad is not None]

    def _tell_missing(self, role: str, names: list[str], learning: Mapping[str, object]) -> None:
        """Of the first step: which parameters got no gradient."""
        warn_without_gradient(role, names, learning)

    def _norm(self, grads: list[Tensor]) -> Tensor:
        return torch.nn.utils.get_total_norm(grads)

    def weights(self, role: str, *, learning: bool = False) -> dict[str, Tensor]:
        """This process's share of the master weights and saved buffers, by published name.

        The shares of all processes together are the network; a sharded tensor is a DTensor. The
        tensors are live: copy what has to outlast the next step. Collective.

        Args:
            learning: leave out what does not learn.
        """
        tensors = self._tensors(role)
        if learning:
            return {name: tensors[name] for name in self.learners[role].named_learning()}
        return tensors

    @contextmanager
    def swapped(self, role: str, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Within, the network computes with other weights; its own come back exactly. Collective.

        Masters, gradients and optimizer state stay as they are: train on after it, not within.

        Args:
            weights: of what learns, each process's share as `weights` gives it, on any device.
        """
        own = {name: local(p).clone() for name, p in self.learners[role].named_learning().items()}
        self._put_share(role, weights)
        try:
            yield
        finally:
            self._put(role, own)

    def _put_share(self, role: str, weights: Mapping[str, Tensor]) -> None:
        self._put(role, weights)

    @torch.no_grad()
    def _put(self, role: str, weights: Mapping[str, Tensor]) -> None:
        """Write this process's part of weights that learn."""
        params = self.learners[role].named_learning()
        for name, value in weights.items():
            local(params[name]).copy_(local(value))

    def pieces(self, role: str) -> list[Tensor]:
        """What the optimizer of a role moves on this process, live; without names or messages."""
        return [local(param) for param in self.learners[role].named_learning().values()]

    def optimizer_state(self, role: str) -> dict[str, Tensor]:
        """This process's share of the optimizer's state, by "<weight>.<field>". Collective."""
        return {key: as_tensor(value) for key, (value, _) in self._fields(role).items()}

    def _fields(self, role: str) -> dict[str, tuple[Any, dict[str, Any]]]:
        """The live values of the optimizer's state by "<weight>.<field>", and where each is kept."""
        learner = self.learners[role]
        return {
            f"{name}.{key}": (value, learner.optimizer.state[param])
            for name, param in learner.named_learning().items()
            for key, value in learner.optimizer.state.get(param, {}).items()
        }

    def load(self, role: str, weights: TensorReader, optimizer: TensorReader) -> None:
        """Take weights and optimizer state back; see `weights` and `optimizer_state`. Collective."""
        tensors = self._tensors(role)
        check_names(role, tensors, weights.shapes())
        self._load_optimizer(role, optimizer)
        weights.read(tensors)

    def _load_optimizer(self, role: str, reader: TensorReader) -> None:
        """Let the optimizer make its state by a step that goes nowhere, and fill it.

        So every field has the type and the place that its class wants. Weights are to be read after it.
        """
        learner, saved = self.learners[role], reader.shapes()
        names = {key.rpartition(".")[0] for key in saved}
        begin_state(
            learner.optimizer, [p for n, p in learner.named_learning().items() if n in names]
        )
        fields = self._fields(role)
        try:
            check_names(f"{role} ({type(learner.optimizer).__name__})", fields, saved)
        except ValueError as error:
            remedy = "restore SOLVER.OPTIMIZER_CONFIG, or begin anew by --reset-optimizer"
            raise ValueError(f"{error}; {remedy}") from None
        filled = {key: as_tensor(value) for key, (value, _) in fields.items()}
        reader.read(filled)
        for key, (value, state) in fields.items():
            if not isinstance(value, Tensor):
                state[key.rpartition(".")[2]] = type(value)(filled[key].item())

    def _share(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every `world`-th tensor: where all processes hold the same, one of them writes it."""
        names = sorted(tensors)[self.env.rank :: self.env.world]
        return {name: tensors[name] for name in names}

    def _tensors(self, role: str) -> dict[str, Tensor]:
        """Everything that the network saves, live, by published name."""
        state = self.learners[role].net.state_dict()
        return {name: value.detach() for name, value in state.items()}


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be sharded; the memory is shared."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def check_names(role: str, wanted: Mapping[str, Tensor], found: Mapping[str, object]) -> None:
    """Compare the names of a network with those of a checkpoint.

    Raises:
        ValueError: the two differ.
    """
    missing = sorted(set(wanted) - set(found))
    extra = sorted(set(found) - set(wanted))
    if missing or extra:
        raise ValueError(
            f"the checkpoint does not fit role {role!r}: it lacks {missing[:5]} ({len(missing)} in all), "
            f"and the network lacks {extra[:5]} ({len(extra)} in all)"
        )


def warn_without_gradient(role: str, names: list[str], learning: Mapping[str, object]) -> None:
    """Name the parameters that the first step left without a gradient.

    Raises:
        ValueError: none has one.
    """
    if len(names) == len(learning):
        raise ValueError(
            f"no parameter of role {role!r} got a gradient: its loss does not depend on it"
        )
    if names:
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        logger.warning(f"{len(names)} parameters of {role!r} got no gradient and stay: {shown}")
