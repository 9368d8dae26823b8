# SPDX-License-Identifier: Apache-2.0
"""Tells of steps whose loss or gradient was not finite, and ends a run that does nothing but skip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffnext.engine.hooks.base import Hook
from diffnext.pipelines.train_base import Inputs, StepOutput
from diffnext.utils import files
from diffnext.utils.logging import logger
from diffnext.utils.metrics import Metrics
from diffnext.utils.seeding import Draws

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer

MOST_FILES = 20  # of one process; a run that diverges tells no more with each
HALVINGS = 40  # steps that float16 may skip in a row while it looks for its scale, from 2**16 down


class NonFiniteError(RuntimeError):
    """Too many steps in a row were skipped."""


@dataclass(frozen=True)
class Micro:
    """What is kept of a micro-batch until its step is known to be good: no more than its names."""

    role: str
    draws: Draws  # knows the samples' keys
    shape: torch.Size  # of the latents
    losses: Tensor | None  # (B,) on the device


@dataclass(frozen=True)
class Step:
    """What is kept of a step."""

    number: int
    values: dict[str, Tensor | float]  # by the names of the log
    micros: list[Micro]


class GuardHook(Hook):
    """Counts the steps that the optimizers skipped and writes a file about each.

    A healthy step costs nothing: whether it was one is read from the device every `every` steps,
    and what the samples of a bad one were noised with follows from their keys.

    <folder>/step_<n>_rank_<r>.json    samples of this process with record, losses and noise

    Args:
        folder: of the files; made when the first one is written.
        every: steps between two looks.
        limit: skipped steps in a row that end the run; 0 never does. In float16 at least HALVINGS.
        describe: says where a sample comes from.
    """

    def __init__(
        self, folder: str | Path, *, every: int, limit: int, describe: Callable[[int], str]
    ) -> None:
        self.folder = Path(folder)
        self.every = max(every, 1)
        self.limit = limit
        self.describe = describe
        self.skipped = 0  # steps of this process so far
        self._in_a_row = 0
        self._written = 0
        self._micros: list[Micro] = []
        self._steps: list[Step] = []

    def after_loss(self, trainer: Trainer, role: str, inputs: Inputs, output: StepOutput) -> None:
        micro = Micro(role, inputs.draws, inputs.latents.shape, output.per_sample)
        self._micros.append(micro)

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        micros, self._micros = self._micros, []
        self._steps.append(Step(trainer.step, metrics.values, micros))
        if trainer.step % self.every == 0 or trainer.ending:
            self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        steps, self._steps = self._steps, []
        skipped = torch.stack([step.values["skipped"] for step in steps]).tolist()
        bad = [step for step, flag in zip(steps, skipped, strict=True) if flag]
        self.skipped += len(bad)
        for step in bad:
            self._report(trainer, step)
        if bad and trainer.backend.env.is_main:  # all skip the same steps
            numbers = [step.number for step in bad]
            logger.warning(
                f"not finite, weights left alone in steps {numbers} ({self.skipped} so far)"
            )
        for flag, step in zip(skipped, steps, strict=True):
            self._in_a_row = self._in_a_row + 1 if flag else 0
            self._check_row(trainer, step.number)

    def _check_row(self, trainer: Trainer, last: int) -> None:
        """All processes skip the same steps, so all end together."""
        low = trainer.backend.precision == "float16"
        if self.limit == 0 or self._in_a_row < max(self.limit, HALVINGS if low else 0):
            return
        first = last - self._in_a_row + 1
        raise NonFiniteError(
            f"loss or gradient was not finite in steps {first} to {last}, so nothing was learned in "
            f"them (SOLVER.MAX_SKIPPED is {self.limit}). {self.folder} names the samples and their "
            f"noise; tools/replay_step.py --step {first} repeats one. Go on from a checkpoint before "
            f"step {first} (TRAIN.RESUME) with a lower SOLVER.BASE_LR, with SOLVER.CLIP_GRAD 1.0, or "
            "with MODEL.PRECISION bfloat16 or float32"
        )

    def _report(self, trainer: Trainer, step: Step) -> None:
        """Write what this process's samples were, unless only the scale of float16 was too high."""
        losses = [m.losses for m in step.micros if m.losses is not None]
        overflow = losses and all(bool(loss.isfinite().all()) for loss in losses)
        if self._written == MOST_FILES or (overflow and trainer.backend.precision == "float16"):
            return
        self._written += 1
        rank = trainer.backend.env.rank
        path = self.folder / f"step_{step.number}_rank_{rank}.json"
        norms = {k: _number(v) for k, v in step.values.items() if k.startswith("grad_norm")}
        samples = [
            row for i, micro in enumerate(step.micros) for row in self._rows(trainer, i, micro)
        ]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_json(path, {"step": step.number, "rank": rank, **norms, "samples": samples})
        except OSError as error:  # a full disk is no reason to end
            logger.warning(f"{path} could not be written: {error}")

    def _rows(self, trainer: Trainer, number: int, micro: Micro) -> list[dict[str, Any]]:
        """One row a sample."""
        levels = trainer.pipe.noise_levels(micro.shape, micro.draws)
        rows = []
        for i, (epoch, index) in enumerate(micro.draws.keys):
            row = {"call": number, "role": micro.role, "epoch": epoch, "index": index}
            row["record"] = self.describe(index)
            row["loss"] = None if micro.losses is None else _number(micro.losses[i])
            row["noise"] = None if levels is None else summary(levels[i])
            rows.append(row)
        return rows


def summary(levels: Tensor) -> dict[str, float]:
    """Of the noise levels of one sample."""
    return {
        "mean": levels.mean().item(),
        "min": levels.min().item(),
        "max": levels.max().item(),
    }


def _number(value: Tensor | float) -> float | str:
    """A number, as a word where JSON has none for it."""
    number = float(value)
    return number if abs(number) < float("inf") else str(number)
