# SPDX-License-Identifier: Apache-2.0
"""Train a network on the objective of its own family."""

from __future__ import annotations

from diffnext.methods import METHODS
from diffnext.methods.base import TrainingMethod
from diffnext.pipelines.train_base import Inputs, StepOutput


@METHODS.register("finetune")
class Finetune(TrainingMethod):
    """Pre-training and fine-tuning alike: one network, the family's loss, every step."""

    def loss(self, role: str, inputs: Inputs, step: int) -> StepOutput:
        return self.pipe.loss(self.nets[role], inputs)
