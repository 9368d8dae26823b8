# SPDX-License-Identifier: Apache-2.0
"""Writes the whole run every now and then, and at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from diffnext.engine.hooks.base import Hook
from diffnext.utils.metrics import Metrics

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer


class SnapshotHook(Hook):
    """Calls `save` every `every` steps and after the last one of this process.

    Args:
        save: writes a checkpoint of the trainer; called by all processes.
        every: steps between two checkpoints.
    """

    def __init__(self, save: Callable[[Trainer], None], *, every: int) -> None:
        self.save = save
        self.every = every

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        if trainer.step % self.every == 0 or trainer.ending:
            self.save(trainer)
