# SPDX-License-Identifier: Apache-2.0
"""A training method to which something happens in one of its steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from torch import nn

from diffnext.methods.finetune import Finetune
from diffnext.pipelines.train_base import Inputs, StepOutput, TrainPipeline


class Faulty(Finetune):
    """Fine-tuning.

    Args:
        at: the step, counted from 1.
        what: name of a signal that this process gets, or "nan": the losses from then on.
    """

    def __init__(
        self, pipe: TrainPipeline, nets: Mapping[str, nn.Module], *, at: int = 0, what: str = "nan"
    ) -> None:
        super().__init__(pipe, nets)
        self.at = at
        self.what = what

    def loss(self, role: str, inputs: Inputs, step: int) -> StepOutput:
        output = super().loss(role, inputs, step)
        if self.what == "nan" and 0 < self.at <= step + 1:
            samples = output.per_sample * float("nan")
            return StepOutput(output.loss * float("nan"), {}, samples)
        if self.at == step + 1 and self.what != "nan":
            os.kill(os.getpid(), getattr(signal, self.what))
        return output
