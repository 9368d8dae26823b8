# SPDX-License-Identifier: Apache-2.0
"""Keeps the running average of the weights of a role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffnext.engine.ema import EMA
from diffnext.engine.hooks.base import Hook
from diffnext.utils.metrics import Metrics

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer


class EMAHook(Hook):
    """Updates averages every `every` steps, and after the last step.

    Args:
        ema: the averages.
        role: whose weights.
        every: steps between updates.
    """

    def __init__(self, ema: EMA, *, role: str, every: int) -> None:
        self.ema = ema
        self.role = role
        self.every = every

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        if trainer.step % self.every == 0 or trainer.step == trainer.max_steps:
            self.ema.update(trainer.backend.weights(self.role, learning=True))

    def close(self) -> None:
        self.ema.wait()
