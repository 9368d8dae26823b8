# SPDX-License-Identifier: Apache-2.0
"""Classifier-free guidance: how several predictions become one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """How far a prediction is pushed from the unconditional one, and when.

    A third prediction serves either image guidance or spatiotemporal guidance. The predictions are,
    in this order: the prompt; no prompt; and for image guidance no prompt with the video as
    condition (the second then lacks the video too), for spatiotemporal guidance the prompt, perturbed.

    Args:
        scale: strength s; 1 turns guidance off.
        min_scale: strength from which s is reached linearly over the autoregressive steps.
        trunc: timestep below which guidance is off.
        renorm: least factor by which a guided prediction is scaled back to the norm of the
            conditional one; 1 turns this off.
        image_scale: strength of image guidance; 0 turns it off.
        stg_scale: strength of spatiotemporal guidance; 0 turns it off.
    """

    scale: float = 1.0
    min_scale: float | None = None
    trunc: float = 0.0
    renorm: float = 1.0
    image_scale: float = 0.0
    stg_scale: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} of guidance is {value}; a finite number is wanted")
        if self.image_scale > 0 and self.stg_scale > 0:
            raise ValueError(
                f"image guidance ({self.image_scale}) and spatiotemporal guidance ({self.stg_scale}) "
                "exclude each other; set one of them to 0"
            )

    @property
    def num_passes(self) -> int:
        """Predictions that are combined: 1, 2 or 3."""
        if self.scale <= 1:
            return 1
        return 3 if self.image_scale > 0 or self.stg_scale > 0 else 2

    @property
    def prompt_passes(self) -> tuple[bool, ...]:
        """For each pass, whether it has the prompt."""
        return (True, False, self.stg_scale > 0)[: self.num_passes]

    @property
    def video_passes(self) -> tuple[bool, ...]:
        """For each pass, whether it sees the frames before."""
        return (True, self.image_scale <= 0, True)[: self.num_passes]

    def scale_at(self, step: int, num_steps: int) -> float:
        """Strength at an autoregressive step, counted from 0."""
        if self.min_scale is None:
            return self.scale
        return self.min_scale + (self.scale - self.min_scale) * (step + 1) / num_steps

    def combine(self, predictions: Tensor, scale: float) -> Tensor:
        """Guide (passes, B, ...) to (B, ...) with strength `scale`."""
        if len(predictions) == 1:
            return predictions[0]
        cond, uncond = predictions[0], predictions[1]
        if len(predictions) == 2:
            return self._renormed(uncond + scale * (cond - uncond), cond)
        third = predictions[2]
        if self.image_scale > 0:
            guided = self._renormed(uncond + scale * (cond - third), cond)
            return guided + self.image_scale * (third - uncond)
        guided = self._renormed(uncond + scale * (cond - uncond), cond)
        return guided + self.stg_scale * (cond - third)

    def _renormed(self, guided: Tensor, cond: Tensor) -> Tensor:
        if self.renorm >= 1:
            return guided
        dims = tuple(range(1, guided.dim()))
        norms = [x.float().square().sum(dims, keepdim=True).sqrt() for x in (cond, guided)]
        return guided * (norms[0] / norms[1]).clamp(self.renorm, 1).to(guided.dtype)
