# SPDX-License-Identifier: Apache-2.0
"""A method of three roles: a frozen teacher, a student that imitates it, a critic that tells them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffnext.methods.base import Role, Round, TrainingMethod
from diffnext.pipelines.train_base import Inputs, StepOutput, TrainPipeline


class Duel(TrainingMethod):
    """In even steps the critic moves alone, in odd ones first the student, then the critic.

    The student's loss passes through the critic, and the critic's through the student.
    """

    roles = (Role("teacher"), Role("student", learns=True), Role("critic", learns=True))

    def __init__(self, pipe: TrainPipeline, nets: Mapping[str, nn.Module]) -> None:
        super().__init__(pipe, nets)
        self.rounds_done = 0
        self.level = torch.zeros(())

    def rounds(self, inputs: Sequence[Inputs], step: int) -> Iterator[Round]:
        if step % 2:
            yield Round(("student",), inputs)
        yield Round(("critic",), inputs)

    def loss(self, role: str, inputs: Inputs, step: int) -> StepOutput:
        return duel_loss(self.nets, role, inputs.latents.flatten(1))

    def after_step(self, step: int) -> Mapping[str, float]:
        self.rounds_done += 1 + step % 2
        self.level = 0.5 * self.level + step
        return {"level": float(self.level)}

    def state_dict(self) -> dict[str, Any]:
        return {"rounds_done": self.rounds_done, "level": self.level}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rounds_done, self.level = state["rounds_done"], state["level"]


def duel_loss(nets: Mapping[str, nn.Module], role: str, x: Tensor) -> StepOutput:
    """Of one side; the critic's word is the mean of what its network returns."""
    with torch.no_grad():
        real = nets["teacher"](x)
    made = nets["student"](x)
    if role == "student":
        error = (made - real).square().mean()
        loss = error + torch.relu(1 - nets["critic"](made).mean(1)).mean()
        return StepOutput(loss, {"error": error.detach()}, None)
    told, fake = nets["critic"](real).mean(1), nets["critic"](made).mean(1)
    loss = torch.relu(1 - told).mean() + torch.relu(1 + fake).mean()
    return StepOutput(loss, {"error": told.detach().mean()}, None)
