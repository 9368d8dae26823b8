# SPDX-License-Identifier: Apache-2.0
"""Keeps what was computed for each sample of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from diffnext.engine.hooks.base import Hook
from diffnext.pipelines.train_base import Inputs, StepOutput

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer


@dataclass(frozen=True)
class SampleResult:
    """One sample, in one of the losses of a step."""

    role: str
    epoch: int
    index: int  # of the record, through all datasets
    prompt: str | Tensor | None  # text, or its embedding (L, D)
    label: int | None
    noise: Tensor | None  # (any,) shares of noise, from 0 to 1
    loss: float | None


class RecordHook(Hook):
    """Collects the samples of all steps that it sees; waits for the device."""

    def __init__(self) -> None:
        self.samples: list[SampleResult] = []

    def after_loss(self, trainer: Trainer, role: str, inputs: Inputs, output: StepOutput) -> None:
        batch = inputs.batch
        levels = trainer.pipe.noise_levels(inputs.latents.shape, inputs.draws)
        for i, (epoch, index) in enumerate(inputs.draws.keys):
            self.samples.append(
                SampleResult(
                    role=role,
                    epoch=epoch,
                    index=index,
                    prompt=None if batch.prompts is None else batch.prompts[i],
                    label=None if batch.labels is None else int(batch.labels[i]),
                    noise=None if levels is None else levels[i],
                    loss=None if output.per_sample is None else output.per_sample[i].item(),
                )
            )
