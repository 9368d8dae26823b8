# SPDX-License-Identifier: Apache-2.0
"""Something that happens around the steps of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from diffnext.pipelines.train_base import Inputs, StepOutput
from diffnext.utils.metrics import Metrics

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer


class Hook:
    """Called by the loop in the order of its list; `trainer.step` counts finished steps."""

    def before_train(self, trainer: Trainer) -> None:
        """Before the first step of this process."""

    def before_step(self, trainer: Trainer) -> None:
        """Before each step."""

    def after_loss(self, trainer: Trainer, role: str, inputs: Inputs, output: StepOutput) -> None:
        """After each loss of a micro-batch; its tensors are on the device, and not to be waited for."""

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """After each step, already counted."""

    def after_train(self, trainer: Trainer) -> None:
        """After the last step of this process; not called if the run breaks off."""

    def phase(self) -> str:
        """What the loop waits for within this hook, of heartbeat.PHASES, "" for nothing that it can name.

        Called by another thread.
        """
        return ""

    def close(self) -> None:
        """At the very end, also after an error."""


class PeriodicHook(Hook, ABC):
    """Looks at the weights before the first step, every `every` steps and after the last one."""

    def __init__(self, every: int) -> None:
        self.every = every

    def before_train(self, trainer: Trainer) -> None:
        if trainer.step == 0:
            self.run(trainer)

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        if trainer.step % self.every == 0 or trainer.step == trainer.max_steps:
            self.run(trainer)

    @abstractmethod
    def run(self, trainer: Trainer) -> None:
        """Look at the weights and leave the run as it was. Collective."""
