# SPDX-License-Identifier: Apache-2.0
"""What an example is between the cache and the model: every field with its shape, dtype and unit.

Letters: B batch, C latent channel, T latent frame, H W latent size, L text length, D text width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


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

    def to(self, device: torch.device) -> Batch:
        """The same with its numbers on a device, prompts and keys left; nothing is waited for."""
        fields = {name: getattr(self, name) for name in ("moments", "labels", "flow")}
        there = {k: v.to(device, non_blocking=True) for k, v in fields.items() if v is not None}
        return replace(self, **there)

    def keys(self) -> list[tuple[int, int]]:
        """(epoch, record number) of each sample: what its random numbers are drawn from."""
        return list(zip(self.epoch.tolist(), self.index.tolist(), strict=True))


def collate(
    records: Sequence[Mapping[str, Any]],
    prompts: Sequence[str | np.ndarray | None],
    *,
    moments: Tensor,
    index: np.ndarray,
    epoch: np.ndarray,
) -> Batch:
    """Make a batch of examples of one shape.

    Args:
        records: B decoded records, for `label` and `flow`.
        prompts: B texts, embeddings (L, D), or None.
        moments: (B, 2C, T, H, W) float16; where they are in page-locked memory, labels and motion
            are too, since a copy from other memory holds up the host.
        index: (B,) int64, number of each record in its dataset.
        epoch: (B,) int64, how many times that was gone through before.

    Raises:
        ValueError: a field that some examples have and others lack.
    """
    numbers = index.tolist()
    labels = _column([record.get("label") for record in records], "label", numbers)
    flow = _column([record.get("flow") for record in records], "flow", numbers)
    texts = _column(prompts, "prompt", numbers)
    pinned = moments.is_pinned()
    return Batch(
        moments=moments,
        index=torch.from_numpy(index),
        epoch=torch.from_numpy(epoch),
        prompts=texts and [p if isinstance(p, str) else torch.from_numpy(p) for p in texts],
        labels=None
        if labels is None
        else torch.tensor(labels, dtype=torch.int64, pin_memory=pinned),
        flow=None if flow is None else torch.tensor(flow, dtype=torch.float32, pin_memory=pinned),
    )


def _column(values: Sequence[Any], field: str, numbers: list[int]) -> list[Any] | None:
    """The values of all examples; None if they have none."""
    present = [value for value in values if value is not None]
    if 0 < len(present) < len(values):
        missing = [n for n, value in zip(numbers, values, strict=True) if value is None]
        raise ValueError(f"records {missing} have no {field!r}, others of their batch do")
    return present or None
