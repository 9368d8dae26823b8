# SPDX-License-Identifier: Apache-2.0
"""Pixels to moments: by an autoencoder, in batches, with patience for single samples that fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from diffnext.utils.logging import logger

Encode = Callable[
    [np.ndarray], np.ndarray
]  # (B, T, H, W, 3) uint8 -> (B, 2C, [T',] H', W') float16
Outcome = np.ndarray | Exception
PATIENCE = 3  # batches in a row that may fail in every sample


class Encoder:
    """Pixels to moments by an autoencoder that is on its device and in its precision.

    Args:
        vae: `encode(x).latent_dist.parameters` of x in [-1, 1] are the moments.
        video: whether x has a time axis, (B, 3, T, H, W), or not, (B, 3, H, W).
    """

    def __init__(self, vae: Any, *, video: bool) -> None:
        weight = next(vae.parameters())
        self.vae, self.video = vae, video
        self.device, self.dtype = weight.device, weight.dtype

    @torch.no_grad()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Encode uint8 frames (B, T, H, W, 3). Returns float16 (B, 2C, [T',] H', W')."""
        x = torch.from_numpy(frames.transpose(0, 4, 1, 2, 3)).to(self.device)  # (B, 3, T, H, W)
        x = (
            x.to(self.dtype).sub(127.5).div(127.5)
        )  # exact in float16 and bfloat16 but for the division
        if not self.video:
            x = x[:, :, 0]
        moments = self.vae.encode(x).latent_dist.parameters
        return moments.to(torch.float16).cpu().numpy()


class PatientEncoder:
    """Encodes batches; one that fails as a whole is taken sample by sample.

    All samples are of one size, so what fails on every sample of several batches in a row will not
    end: memory that is too small, an autoencoder on the wrong device.
    """

    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self._lost = 0  # batches in a row that failed in every sample
        self._told = False

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Outcome]:
        """Moments of each sample, or the error that it raised.

        Raises:
            ValueError: every sample of `PATIENCE` batches in a row raised one.
        """
        if not frames:
            return []
        outcomes = self._whole_or_single(frames)
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        self._lost = self._lost + 1 if len(errors) == len(outcomes) else 0
        if self._lost == PATIENCE:
            raise ValueError(
                f"the autoencoder failed on every sample of {PATIENCE} batches in a row, on the last "
                f"with {type(errors[-1]).__name__}: {errors[-1]}; what was encoded before is kept"
            ) from errors[-1]
        return outcomes

    def _whole_or_single(self, frames: Sequence[np.ndarray]) -> list[Outcome]:
        try:
            return list(self.encode(np.stack(frames)))
        except (RuntimeError, ValueError) as error:  # out of memory among them
            if len(frames) == 1:
                return [error]
            self._tell(len(frames), error)
        return [self._whole_or_single([sample])[0] for sample in frames]

    def _tell(self, count: int, error: Exception) -> None:
        if not self._told:
            logger.warning(
                f"a batch of {count} cannot be encoded ({type(error).__name__}: {error}); such are "
                "taken sample by sample, which is slower: a smaller batch size may help"
            )
        self._told = True


def flaw(moments: np.ndarray) -> ValueError | None:
    """Say what makes moments (2C, ...) unfit to train on; None if nothing does."""
    if not np.isfinite(moments).all():
        return ValueError("moments are NaN or beyond the range of float16")
    mean = moments[: len(moments) // 2]
    if mean.min() == mean.max():
        return ValueError(f"moments are constant, {float(mean.flat[0]):g} everywhere")
    return None
