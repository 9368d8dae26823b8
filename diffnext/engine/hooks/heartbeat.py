# SPDX-License-Identifier: Apache-2.0
"""Tells the heartbeat of a process where its loop is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffnext.engine.heartbeat import Heartbeat
from diffnext.engine.hooks.base import Hook
from diffnext.utils.metrics import Metrics

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer

PATIENCE = 4  # times as long for the first step, which compiles, and for hooks, which save


class HeartbeatHook(Hook):
    """First of the hooks, so that the time of all others counts as theirs.

    Args:
        heart: of this process.
        timeout_s: longest time of a step; 0 is no limit.
        logs: folder for the stacks of a process that hangs.
    """

    def __init__(self, heart: Heartbeat, *, timeout_s: float, logs: str | Path) -> None:
        self.heart = heart
        self.timeout_s = timeout_s
        self.logs = logs
        self._patience = PATIENCE

    def before_train(self, trainer: Trainer) -> None:
        self.heart.train(lambda: phase_of(trainer), logs=self.logs)

    def before_step(self, trainer: Trainer) -> None:
        self.heart.move(trainer.step + 1, limit_s=self.timeout_s * self._patience)
        self._patience = 1

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        self.heart.move(trainer.step, limit_s=self.timeout_s * PATIENCE)


def phase_of(trainer: Trainer) -> str:
    """What the loop is doing, of heartbeat.PHASES."""
    told = (hook.phase() for hook in trainer.hooks)
    return next(filter(None, told), trainer.phase)
