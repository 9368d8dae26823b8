# SPDX-License-Identifier: Apache-2.0
"""Writes the whole run every now and then, and at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from diffnext.engine.checkpoint import CheckpointManager, Score
from diffnext.engine.hooks.base import Hook
from diffnext.utils.metrics import Metrics

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer


class SnapshotHook(Hook):
    """Saves every `every` steps and where the run ends, be it before its last step.

    Args:
        manager: writes checkpoints; called by all processes.
        every: steps between two checkpoints.
        before: called before each, to bring what belongs to the same steps to the disk.
        score: what an evaluation has made of the weights after a step, if there are evaluations.
    """

    def __init__(
        self,
        manager: CheckpointManager,
        *,
        every: int,
        before: Callable[[], None],
        score: Callable[[int], Score | None] | None = None,
    ) -> None:
        self.manager = manager
        self.every = every
        self.before = before
        self.score = score
        self._saved = 0  # step of the latest checkpoint

    def before_train(self, trainer: Trainer) -> None:
        self._saved = trainer.step

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        self.manager.check()
        if trainer.step % self.every == 0 or trainer.step == trainer.max_steps:
            self._save(trainer)

    def after_train(self, trainer: Trainer) -> None:
        if self._saved != trainer.step:
            self._save(trainer)
        self.manager.finish()

    def phase(self) -> str:
        return self.manager.phase

    def close(self) -> None:
        self.manager.close()

    def _save(self, trainer: Trainer) -> None:
        self.before()
        self._saved = trainer.step
        score = None if self.score is None else self.score(trainer.step)
        self.manager.save(trainer, score=score)
