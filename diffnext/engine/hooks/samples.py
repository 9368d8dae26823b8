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
from diffnext.engine.gather import gather_network
from diffnext.engine.hooks.base import Hook
from diffnext.utils.logging import logger
from diffnext.utils.metrics import Metrics
from diffnext.utils.writers import Curves

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer

# (config of the network, its weights, folder for the files) -> files with captions
Draw = Callable[[Mapping[str, Any], Mapping[str, Tensor], Path], Sequence[tuple[Path, str]]]


class SampleHook(Hook):
    """Samples before the first step, every `every` steps and after the last one.

    All processes bring their weights, the first one draws, the others wait. The network that is
    sampled is another one than that which learns. Where sampling fails, a warning says why.

    <folder>/step_<n>/    files, and beside each what it was made from

    Args:
        folder: of the samples.
        draw: makes the files.
        curves: where they are shown too.
        role: whose network.
        every: steps between two times.
        ema: averages of the weights; the first one is sampled in their place. None if there is none.
    """

    def __init__(
        self,
        folder: str | Path,
        draw: Draw,
        *,
        curves: Sequence[Curves],
        role: str,
        every: int,
        ema: EMA | None,
    ) -> None:
        self.folder = Path(folder)
        self.draw = draw
        self.curves = list(curves)
        self.role = role
        self.every = every
        self.ema = ema

    def before_train(self, trainer: Trainer) -> None:
        if trainer.step == 0:
            self._run(trainer)

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        if trainer.step % self.every == 0 or trainer.step == trainer.max_steps:
            self._run(trainer)

    def _run(self, trainer: Trainer) -> None:
        backend = trainer.backend
        weights = gather_network(backend, self.role, self.ema)
        if backend.env.is_main:
            device = backend.env.device
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                self._write(trainer, weights)
            del weights
            gc.collect()  # pipelines have cycles
            if device.type == "cuda":
                torch.cuda.empty_cache()
        processes.barrier()

    def _write(self, trainer: Trainer, weights: Mapping[str, Tensor]) -> None:
        config = trainer.backend.learners[self.role].net.config
        folder = self.folder / f"step_{trainer.step}"
        try:
            samples = self.draw(config, weights, folder)
            for curves in self.curves:
                curves.show(trainer.step, samples)
        except Exception as error:  # a picture less is no reason to stop
            logger.warning(
                f"no samples of step {trainer.step}, training goes on: {type(error).__name__}: {error}"
            )
        else:
            logger.info(f"{len(samples)} samples in {folder}")
