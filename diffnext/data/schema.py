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
    labels = [record["label"] for record in records if "label" in record]
    flow = [record["flow"] for record in records if "flow" in record]
    texts = [p if isinstance(p, str) else torch.from_numpy(p) for p in prompts if p is not None]
    if not {len(labels), len(flow), len(texts)} <= {0, len(records)}:
        raise ValueError(_lacking(records, prompts, index.tolist()))
    return Batch(
        moments=moments,
        index=torch.from_numpy(index),
        epoch=torch.from_numpy(epoch),
        prompts=texts or None,
        labels=_column(labels, torch.int64, moments),
        flow=_column(flow, torch.float32, moments),
    )


def _column(values: list[Any], dtype: torch.dtype, moments: Tensor) -> Tensor | None:
    return torch.tensor(values, dtype=dtype, pin_memory=moments.is_pinned()) if values else None


def _lacking(
    records: Sequence[Mapping[str, Any]], prompts: Sequence[Any], numbers: list[int]
) -> str:
    """Which examples lack what others have."""
    lacks = {
        "label": ["label" not in record for record in records],
        "flow": ["flow" not in record for record in records],
        "prompt": [prompt is None for prompt in prompts],
    }
    field, found = next((field, found) for field, found in lacks.items() if len(set(found)) > 1)
    missing = [number for number, lack in zip(numbers, found, strict=True) if lack]
    return f"records {missing} have no {field!r}, others of their batch do"
