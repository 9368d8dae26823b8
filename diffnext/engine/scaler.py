# SPDX-License-Identifier: Apache-2.0
"""Loss scaling for float16, without a word to the host."""

from __future__ import annotations

import torch
from torch import Tensor


class LossScaler:
    """Keeps small float16 gradients above zero: doubles while all goes well, halves on an overflow.

    The rule and its constants are those of torch.amp.GradScaler. Whether a step overflowed is
    decided from the global gradient norm, so that all processes agree.

    Args:
        device: where the scale is kept.
    """

    def __init__(self, device: torch.device, *, start: float = 2.0**16, growth_every: int = 2000):
        self.scale = torch.full((), start, device=device)
        self.good_steps = torch.zeros((), device=device)
        self.growth_every = growth_every

    def update(self, overflow: Tensor) -> None:
        """Adapt the scale to the outcome of a step.

        Args:
            overflow: scalar, 1 if the gradients were not finite, else 0.
        """
        good = (self.good_steps + 1) * (1 - overflow)
        grow = good >= self.growth_every
        factor = torch.where(overflow > 0, 0.5, torch.where(grow, 2.0, 1.0))
        self.scale = self.scale * factor
        self.good_steps = torch.where(grow, torch.zeros_like(good), good)

    def state_dict(self) -> dict[str, Tensor]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self.scale = state["scale"].to(self.scale)
        self.good_steps = state["good_steps"].to(self.good_steps)
