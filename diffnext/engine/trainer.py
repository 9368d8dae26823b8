# SPDX-License-Identifier: Apache-2.0
"""The loop: batches to losses to steps, whatever the network, the method and the backend are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffnext.data.schema import Batch
from diffnext.engine.backends.base import Backend
from diffnext.engine.lr_scheduler import Schedule
from diffnext.engine.stop import StopVote
from diffnext.methods.base import Round, TrainingMethod
from diffnext.pipelines.train_base import Inputs, TrainPipeline
from diffnext.utils.metrics import Metrics, StepTimer, average
from diffnext.utils.seeding import Draws

if TYPE_CHECKING:
    from diffnext.engine.hooks.base import Hook


class Trainer:
    """Runs `max_steps` steps of a method. Saving, logging and averaging are hooks.

    Args:
        pipe: makes batches ready for the network.
        method: what is minimised, and who moves.
        backend: holds the networks of the method's roles and their optimizers.
        batches: the micro-batches of this process, without end.
        schedules: the learning rate of each role that learns.
        max_steps: number of finished steps at which the run ends.
        seed: of all random numbers.
        accum_steps: micro-batches of a step.
        max_norm: largest global norm of the gradients; 0 does not clip.
    """

    def __init__(
        self,
        *,
        pipe: TrainPipeline,
        method: TrainingMethod,
        backend: Backend,
        batches: Iterator[Batch],
        schedules: Mapping[str, Schedule],
        max_steps: int,
        seed: int,
        accum_steps: int = 1,
        max_norm: float = 0.0,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.pipe = pipe
        self.method = method
        self.backend = backend
        self.batches = batches
        self.schedules = schedules
        self.max_steps = max_steps
        self.seed = seed
        self.accum_steps = accum_steps
        self.max_norm = max_norm
        self.hooks = list(hooks)
        self.step = 0  # finished steps
        self.timer = StepTimer(backend.env.device)
        self.transfers = StepTimer(backend.env.device)  # of micro-batches to the device
        self.data_wait_s = 0.0  # of the last step
        self.stop = StopVote(backend.env)
        self.phase = "hooks"  # of the step: data, loss, update, hooks; read by other threads

    @property
    def ending(self) -> bool:
        """Whether no further step follows: all are done, or the processes agreed to end here."""
        return self.step >= self.max_steps or bool(self.stop.agreed)

    def request_stop(self, reason: str) -> None:
        """Ask for an orderly end after a step, all processes together. Safe in a signal handler."""
        self.stop.request = self.stop.request or reason

    def train(self) -> None:
        """Go on from `step` to `max_steps`, or until an end is asked for."""
        try:
            for hook in self.hooks:
                hook.before_train(self)
            while not self.ending:
                for hook in self.hooks:
                    hook.before_step(self)
                self.stop.ask()
                self.timer.start()
                metrics = self.train_step()
                self.timer.stop()
                self.step += 1
                self.phase = "hooks"
                self.stop.hear()
                for hook in self.hooks:
                    hook.after_step(self, metrics)
            for hook in self.hooks:
                hook.after_train(self)
        finally:
            for hook in self.hooks:
                hook.close()

    def train_step(self) -> Metrics:
        """Every round the method asks for, once. Its numbers stay on the device until a hook reads them."""
        self.data_wait_s = 0.0
        self.phase = "data"
        inputs = [self._next_inputs() for _ in range(self.accum_steps)]
        rounds, norms = [], []
        for rnd in self.method.rounds(inputs, self.step):
            metrics = self._losses(rnd)
            norms += self._update(rnd, metrics)
            rounds.append(metrics)
        metrics = average(rounds)
        metrics.add({"skipped": ~torch.stack(norms).isfinite().all()})
        metrics.add(self.method.after_step(self.step))
        return metrics

    def _losses(self, rnd: Round) -> Metrics:
        """Forward and backward of all micro-batches of a round."""
        self.phase = "loss"
        metrics, count = Metrics(), len(rnd.inputs)
        for i, micro in enumerate(rnd.inputs):
            for role in rnd.roles:
                with self.backend.micro(role, last=i == count - 1):
                    with self.backend.autocast():
                        out = self.method.loss(role, micro, self.step)
                    self.backend.backward(role, poison(out.loss) / count)
                for hook in self.hooks:
                    hook.after_loss(self, role, micro, out)
                numbers = {"loss": out.loss} | dict(out.metrics)
                named = {self.label(name, role): value for name, value in numbers.items()}
                metrics.add(named, weight=1 / count)
        return metrics

    def _update(self, rnd: Round, metrics: Metrics) -> list[Tensor]:
        """Let the optimizers of a round step; return the norms of their gradients."""
        self.phase = "update"
        norms = []
        for role in rnd.roles:
            lr = self.schedules[role](self.step)
            norm = self.backend.step(role, lr=lr, max_norm=self.max_norm)
            metrics.add({self.label("lr", role): lr, self.label("grad_norm", role): norm})
            if self.max_norm > 0:
                metrics.add({self.label("clipped", role): norm > self.max_norm})
            norms.append(norm)
        return norms

    def label(self, name: str, role: str) -> str:
        """The name of a role's number: plain for the first role that learns, others say whose they are."""
        return name if role == self.method.learning[0] else f"{name}/{role}"

    def _next_inputs(self) -> Inputs:
        begin = time.perf_counter()
        batch = next(self.batches)
        self.data_wait_s += time.perf_counter() - begin
        self.transfers.start()
        batch = batch.to(self.backend.env.device)
        self.transfers.stop()
        draws = Draws(self.seed, self.step, batch.keys(), device=self.backend.env.device)
        return self.pipe.prepare(batch, draws=draws)


def poison(loss: Tensor) -> Tensor:
    """The loss, made so that a non-finite one has non-finite gradients: all processes then skip the step."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)
