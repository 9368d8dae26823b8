# SPDX-License-Identifier: Apache-2.0
"""Draws pictures or videos from fixed prompts every now and then, and leaves the run as it was."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffnext.distributed import env as processes
from diffnext.engine.ema import EMA
from diffnext.engine.gather import whole_network
from diffnext.engine.hooks.base import PeriodicHook
from diffnext.utils.logging import logger
from diffnext.utils.writers import Curves

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer

Samples = Sequence[tuple[Path, str]]  # files with captions
# (config of the network, its weights, folder for the files) -> those that this process draws
Draw = Callable[[Mapping[str, Any], Mapping[str, Tensor], Path], Samples]


class SampleHook(PeriodicHook):
    """Samples before the first step, every `every` steps and after the last one.

    All processes bring their weights, and those that have prompts draw, each with a whole network
    of its own beside the one that learns. Where sampling fails, a warning says why.

    <folder>/step_<n>/    files, and beside each what it was made from

    Args:
        folder: of the samples.
        draw: makes the files of this process; None if it has none.
        curves: where they are shown too.
        role: whose network.
        every: steps between two times.
        dtype: of the weights that are drawn with.
        ema: averages of the weights; the first one is sampled in their place. None if there is none.
    """

    def __init__(
        self,
        folder: str | Path,
        draw: Draw | None,
        *,
        curves: Sequence[Curves],
        role: str,
        every: int,
        ema: EMA | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(every)
        self.folder = Path(folder)
        self.draw = draw
        self.curves = list(curves)
        self.role = role
        self.ema = ema
        self.dtype = dtype

    def run(self, trainer: Trainer) -> None:
        folder = self.folder / f"step_{trainer.step}"
        found = processes.gather(self._draw(trainer, folder))
        if not trainer.backend.env.is_main:
            return
        samples = sorted(sample for mine, _ in found for sample in mine)
        errors = {error for _, error in found if error}
        try:
            for curves in self.curves if samples else ():
                curves.show(trainer.step, samples)
        except Exception as error:  # a picture less is no reason to stop
            errors.add(_words(error))
        for error in sorted(errors):
            lost = "not all" if samples else "no"
            logger.warning(f"{lost} samples of step {trainer.step}, training goes on: {error}")
        if samples:
            logger.info(f"{len(samples)} samples in {folder}")

    def _draw(self, trainer: Trainer, folder: Path) -> tuple[Samples, str]:
        """The samples of this process, and why there are none. Collective."""
        backend, wanted = trainer.backend, self.draw is not None
        try:
            weights = whole_network(backend, self.role, self.ema, dtype=self.dtype, wanted=wanted)
        except torch.OutOfMemoryError as error:
            return [], _words(error)
        if self.draw is None:
            return [], ""
        config, device = backend.learners[self.role].net.config, backend.env.device
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                return self.draw(config, weights, folder), ""
        except Exception as error:  # a picture less is no reason to stop
            return [], _words(error)
        finally:
            del weights
            gc.collect()  # pipelines have cycles
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
