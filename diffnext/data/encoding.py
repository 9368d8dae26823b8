# SPDX-License-Identifier: Apache-2.0
"""Pixels to moments: by an autoencoder, in batches, with patience for single samples that fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from diffnext.utils.logging import logger
from diffnext.utils.moments import split_moments

Encode = Callable[
    [np.ndarray], np.ndarray
]  # (B, T, H, W, 3) uint8 -> (B, 2C, [T',] H', W') float16
Outcome = np.ndarray | Exception
KEPT_BYTES = (2 << 30) - 1  # of free memory that a process should keep that encodes on a CPU
_NO_MEMORY = (  # what PyTorch says, and its libraries on a GPU
    "out of memory",
    "allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_host_allocation_failed",
    "cudnn_status_internal_error_device_allocation_failed",
)
PATIENCE = 3  # batches in a row that may fail in every sample


class Encoder:
    """Pixels to moments by an autoencoder that is on its device and in its precision.

    Pixels reach it channel last, as they were decoded: its convolutions follow their order, and took
    22 % less time on a CPU so than channel first. Weights in that order, or compiled, were no faster.

    Args:
        vae: `encode(x).latent_dist.parameters` of x in [-1, 1] are the moments.
        video: whether x has a time axis, (B, 3, T, H, W), or not, (B, 3, H, W).
        compiled: run it through torch.compile, which begins with a minute of compilation for each
            size; meant for GPUs and many samples.
    """

    def __init__(self, vae: Any, *, video: bool, compiled: bool = False) -> None:
        weight = next(vae.parameters())
        self.video = video
        self.device, self.dtype = weight.device, weight.dtype
        self._encode = torch.compile(vae.encode) if compiled else vae.encode

    @torch.no_grad()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Encode uint8 frames (B, T, H, W, 3). Returns float16 (B, 2C, [T',] H', W')."""
        x = torch.from_numpy(frames.transpose(0, 4, 1, 2, 3)).to(self.device)  # (B, 3, T, H, W)
        x = (
            x.to(self.dtype).sub(127.5).div(127.5)
        )  # exact in float16 and bfloat16 but for the division
        if not self.video:
            x = x[:, :, 0]
        moments = self._encode(x).latent_dist.parameters
        return moments.to(torch.float16).cpu().numpy()


class PatientEncoder:
    """Encodes batches of one size; what memory is too small for in halves, other failures singly.

    What fails on every sample of several batches in a row will not end: an autoencoder on the wrong
    device, or sizes that it does not take.
    """

    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self._most: dict[tuple[int, ...], int] = {}  # shape of a sample -> samples that fit
        self._lost = 0  # batches in a row that failed in every sample
        self._told = False

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Outcome]:
        """Moments of each sample, or the error that it raised.

        Args:
            frames: (T, H, W, 3) uint8 each, all of one shape.

        Raises:
            ValueError: every sample of `PATIENCE` batches in a row raised one.
        """
        outcomes: list[Outcome] = []
        while len(outcomes) < len(frames):
            most = self._most.get(frames[0].shape, len(frames))
            outcomes += self._part(frames[len(outcomes) : len(outcomes) + most])
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        self._lost = self._lost + 1 if errors and len(errors) == len(outcomes) else 0
        if self._lost == PATIENCE:
            raise ValueError(
                f"the autoencoder failed on every sample of {PATIENCE} batches in a row, on the last "
                f"with {type(errors[-1]).__name__}: {errors[-1]}; what was encoded before is kept"
            ) from errors[-1]
        return outcomes

    def _part(self, frames: Sequence[np.ndarray]) -> list[Outcome]:
        """Outcomes of as many samples as are given; of none if fewer must be tried."""
        try:
            return list(self.encode(np.stack(frames)))
        except (MemoryError, RuntimeError, ValueError) as raised:
            error = raised.with_traceback(None)  # its frames hold the tensors that were too many
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if len(frames) == 1:
            return [error]
        if is_out_of_memory(error):
            self._halve(frames, error)
            return []
        self._tell(len(frames), error)
        return [self._part([sample])[0] for sample in frames]

    def _halve(self, frames: Sequence[np.ndarray], error: Exception) -> None:
        """Encode fewer of this shape at a time, now and later."""
        shape = frames[0].shape
        if shape not in self._most:
            logger.warning(
                f"memory is too small for {len(frames)} samples of {_size(shape)} at a time ({error}); "
                f"they are encoded by {len(frames) // 2} or fewer from here on"
            )
        self._most[shape] = len(frames) // 2

    def _tell(self, count: int, error: Exception) -> None:
        if not self._told:
            logger.warning(
                f"a batch of {count} cannot be encoded ({type(error).__name__}: {error}); such are "
                "taken sample by sample, which is slower"
            )
        self._told = True


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is too small, of a GPU or of this machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in _NO_MEMORY)


def _size(shape: tuple[int, ...]) -> str:
    frames, height, width, _ = shape
    return f"{frames} x {height}x{width} px"


def flaw(moments: np.ndarray) -> ValueError | None:
    """Say what makes moments (2C, ...) unfit to train on; None if nothing does."""
    if not np.isfinite(moments).all():
        return ValueError("moments are NaN or beyond the range of float16")
    mean, _ = split_moments(moments)
    if mean.min() == mean.max():
        return ValueError(f"moments are constant, {float(mean.flat[0]):g} everywhere")
    return None
