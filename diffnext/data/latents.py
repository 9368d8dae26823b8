# SPDX-License-Identifier: Apache-2.0
"""Sizes of latents, and the sizes of media that an autoencoder can take."""

from __future__ import annotations

from dataclasses import dataclass

from diffnext.data.view_rules import ViewRules
from diffnext.data.views import View


@dataclass(frozen=True)
class Latents:
    """Sizes of an autoencoder: latent channels, frames and pixels that a latent stands for."""

    channels: int
    time_stride: int
    space_stride: int

    def shape(self, view: View) -> tuple[int, ...]:
        """Shape of the moments of a sample: (2C, H, W), (2C, T, H, W) for a video autoencoder."""
        space = (view.height // self.space_stride, view.width // self.space_stride)
        if self.time_stride == 1:
            return (2 * self.channels, *space)
        return (2 * self.channels, (view.num_frames - 1) // self.time_stride + 1, *space)

    def check(self, rules: ViewRules, multiple: int = 1) -> None:
        """Refuse sizes that the autoencoder cannot take.

        Args:
            multiple: latents that each side is a multiple of, for the patches of the network.

        Raises:
            ValueError: with the nearest sizes that it can.
        """
        for size in sorted({size for sizes in rules.sizes for size in sizes}):
            for name, value in zip(("height", "width"), size, strict=True):
                self._check_side(name, value, multiple * self.space_stride)
        for length in rules.num_frames:
            self._check_length(length)
        if rules.frame_stride < 1:
            raise ValueError(f"--frame-stride is {rules.frame_stride}, at least 1 is wanted")

    def _check_side(self, name: str, value: int, step: int) -> None:
        below = value // step * step
        if value != below or value <= 0:
            legal = [str(size) for size in (below, below + step) if size > 0]
            raise ValueError(
                f"--resolution: {name} {value} is no multiple of {step}; "
                f"nearest: {' or '.join(legal)}"
            )

    def _check_length(self, length: int) -> None:
        if length < 1:
            raise ValueError(f"--num-frames is {length}, at least 1 is wanted")
        if length > 1 and self.time_stride == 1:
            raise ValueError(
                f"--num-frames {length}: this autoencoder encodes pictures; give the "
                "--vae of a video model, or --num-frames 1"
            )
        extra = (length - 1) % self.time_stride
        if extra:
            below = length - extra
            raise ValueError(
                f"--num-frames {length} is not {self.time_stride} k + 1; "
                f"nearest: {below} or {below + self.time_stride}"
            )
