# SPDX-License-Identifier: Apache-2.0
"""Tells how many of the weights that learn have moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffnext.engine.hooks.base import Hook
from diffnext.utils.metrics import Metrics

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer

PROBES = 64  # weights that are looked at, of each tensor


class MovedHook(Hook):
    """Compares a sample of the float32 masters, bit by bit, with what they were `every` steps ago.

    The metric `moved` is the share that changed: 1 in a healthy run, less where a learning rate is
    lost in rounding or a part gets no gradient. It stays on the device; for 1000 tensors it takes
    the host 10 ms, of which training on an accelerator sees nothing. Ahead of the log in the list.

    Args:
        every: steps between two comparisons.
    """

    def __init__(self, *, every: int) -> None:
        self.every = max(every, 1)
        self._before: dict[str, Tensor] = {}

    def before_train(self, trainer: Trainer) -> None:
        self._before = _samples(trainer)

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        if trainer.step % self.every:
            return
        now = _samples(trainer)
        for role, values in now.items():
            share = (values != self._before[role]).float().mean()
            metrics.add({trainer.label("moved", role): share})
        self._before = now


@torch.no_grad()
def _samples(trainer: Trainer) -> dict[str, Tensor]:
    """Some weights of each role that learns, copied."""
    return {
        role.name: _sample(trainer.backend.pieces(role.name), len(learner.named_learning()))
        for role in trainer.method.roles
        if role.learns and (learner := trainer.backend.learners[role.name])
    }


def _sample(pieces: list[Tensor], tensors: int) -> Tensor:
    """Evenly spread values of each piece, PROBES for each tensor that the pieces are made of."""
    count = -(-PROBES * tensors // max(len(pieces), 1))
    return torch.cat([_spread(piece.flatten(), count) for piece in pieces])


def _spread(values: Tensor, count: int) -> Tensor:
    return values[:: max(1, len(values) // count)][:count]
