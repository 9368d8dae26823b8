# SPDX-License-Identifier: Apache-2.0
"""What an example is between the cache and the model: every field with its shape, dtype and unit.

Letters: B batch, C latent channel, T latent frame, H W latent size, L text length, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One example, read from a record and with its caption chosen."""

    moments: np.ndarray  # (2C, T, H, W) float16, mean then log-variance; T = 1 for a picture
    index: int  # number of the record in its dataset
    epoch: int  # how many times the whole dataset was gone through before
    prompt: str | np.ndarray | None = None  # text, or its embedding (L, D) float16
    label: int | None = None  # class number
    flow: float | None = None  # motion score of a video, pixels a frame


@dataclass(frozen=True)
class Batch:
    """Examples of one shape, on the CPU."""

    moments: Tensor  # (B, 2C, T, H, W) float16
    index: Tensor  # (B,) int64
    epoch: Tensor  # (B,) int64
    prompts: list[str | Tensor] | None = None  # B texts or embeddings (L, D)
    labels: Tensor | None = None  # (B,) int64
    flow: Tensor | None = None  # (B,) float32

    def __len__(self) -> int:
        return self.moments.size(0)

    def keys(self) -> list[tuple[int, int]]:
        """(epoch, record number) of each sample: what its random numbers are drawn from."""
        return list(zip(self.epoch.tolist(), self.index.tolist(), strict=True))


def collate(samples: list[Sample], moments: Tensor | None = None) -> Batch:
    """Stack examples of one shape.

    Args:
        samples: the examples.
        moments: (B, 2C, T, H, W), where the samples' moments lie already, one after another.

    Raises:
        ValueError: a field that some examples have and others lack, or shapes that differ.
    """
    shapes = {sample.moments.shape for sample in samples}
    if len(shapes) != 1:
        raise ValueError(f"a batch takes moments of one shape, found {sorted(shapes)}")
    return Batch(
        moments=_stack(samples) if moments is None else moments,
        index=torch.tensor([sample.index for sample in samples]),
        epoch=torch.tensor([sample.epoch for sample in samples]),
        prompts=_prompts(samples),
        labels=_column(samples, "label", torch.int64),
        flow=_column(samples, "flow", torch.float32),
    )


def _stack(samples: list[Sample]) -> Tensor:
    return torch.from_numpy(np.stack([sample.moments for sample in samples]))


def _prompts(samples: list[Sample]) -> list[str | Tensor] | None:
    if not _present(samples, "prompt"):
        return None
    prompts = [sample.prompt for sample in samples]
    return [p if isinstance(p, str) else torch.from_numpy(p) for p in prompts]


def _column(samples: list[Sample], field: str, dtype: torch.dtype) -> Tensor | None:
    if not _present(samples, field):
        return None
    return torch.tensor([getattr(sample, field) for sample in samples], dtype=dtype)


def _present(samples: list[Sample], field: str) -> bool:
    missing = [sample.index for sample in samples if getattr(sample, field) is None]
    if missing and len(missing) < len(samples):
        raise ValueError(f"records {missing} have no {field!r}, others of their batch do")
    return not missing
