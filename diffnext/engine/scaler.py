# SPDX-License-Identifier: Apache-2.0
"""Loss scaling for float16, without a word to the host; and DeepSpeed's, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self.scale = state["scale"].to(self.scale)
        self.good_steps = state["good_steps"].to(self.good_steps)


class ZeroScale:
    """The scale that an optimizer of ZeRO keeps by itself, told in the words of `LossScaler`.

    So a checkpoint may go from one to the other.

    Args:
        scaler: DeepSpeed's DynamicLossScaler.
    """

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler

    def state_dict(self) -> dict[str, Tensor]:
        scaler = self._scaler
        found = {
            "scale": scaler.cur_scale,
            "good_steps": scaler.cur_iter - scaler.last_overflow_iter - 1,
            "hysteresis": scaler.cur_hysteresis,  # overflows until the scale is halved
        }
        return {name: torch.tensor(float(value)) for name, value in found.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` of either class gave."""
        scaler = self._scaler
        scaler.cur_scale = float(state["scale"])
        scaler.cur_iter, scaler.last_overflow_iter = int(state["good_steps"]), -1
        scaler.cur_hysteresis = int(state.get("hysteresis", scaler.delayed_shift))
