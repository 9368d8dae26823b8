# SPDX-License-Identifier: Apache-2.0
"""What a cache holds, in numbers: counts, shapes, bytes, identity, mean and std of its latents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffnext.data.ledger import LEDGER
from diffnext.data.parse import moments
from diffnext.data.progress import Progress, silent
from diffnext.data.records import DamagedRecord
from diffnext.data.tools.opening import Cache, evenly_spaced
from diffnext.utils.moments import split_moments


class MeanStd:
    """Mean and standard deviation of each channel, of values that come array by array."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: np.ndarray | float = 0.0
        self._square: np.ndarray | float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Take in values (C, ...), of which each channel has as many as the others."""
        flat = values.reshape(len(values), -1).astype(np.float64)
        self._count += flat.shape[1]
        self._sum = self._sum + flat.sum(1)
        self._square = self._square + np.square(flat).sum(1)

    @property
    def mean(self) -> list[float]:
        """One number a channel."""
        return np.atleast_1d(self._sum / max(1, self._count)).tolist()

    @property
    def std(self) -> list[float]:
        """One number a channel."""
        mean = self._sum / max(1, self._count)
        return np.sqrt(np.maximum(self._square / max(1, self._count) - mean**2, 0)).tolist()


def describe(path: str, *, sample: int | None = 256, progress: Progress = silent) -> dict[str, Any]:
    """Sum up a cache, as JSON can hold it.

    Args:
        path: the folder, or its URL.
        sample: records whose latents are looked at, evenly spread; None: all; 0: none.
        progress: shows how far that is.

    Raises:
        FileNotFoundError, ValueError: there is no cache, or it is damaged.
    """
    cache = Cache(path)
    reader = cache.reader
    found = {
        "path": cache.path,
        "records": len(cache),
        "finished": cache.finished,
        "record_bytes": int(reader.index.size.sum(dtype=np.int64)),
        "disk_bytes": cache.num_bytes,
        "fields": dict(reader.fields),
        "shapes": _shapes(cache),
        "checked": reader.checked,
        "journal": cache.has_journal,
        "failures": _count_lines(cache.file(LEDGER)),
        "identity": cache.identity,
    }
    if sample != 0 and len(cache) and "moments" in reader.fields:
        found["latents"] = latent_mean_std(cache, evenly_spaced(len(cache), sample), progress)
    cache.close()
    return found


def latent_mean_std(
    cache: Cache, rows: Sequence[int], progress: Progress = silent
) -> dict[str, Any]:
    """Mean and std of the latents of some records, by channel, and what could not be counted.

    `std` is that of latents as training draws them: of the means, and of the posterior around them.

    Returns:
        records, damaged, not_finite (numbers of records), mean and std (lists of C numbers).
    """
    means, variances = MeanStd(), MeanStd()
    counted = damaged = not_finite = 0
    for row in progress(rows, len(rows), "latents"):
        try:
            values = moments(cache.reader[row]).astype(np.float32)
        except DamagedRecord:
            damaged += 1
            continue
        if not np.isfinite(values).all():
            not_finite += 1
            continue
        mean, logvar = split_moments(values)
        means.add(mean)
        variances.add(np.exp(np.clip(logvar, -30, 20)))  # the bounds of diffusers' posterior
        counted += 1
    std = np.sqrt(np.square(means.std) + np.array(variances.mean)) if counted else np.empty(0)
    return {
        "records": counted,
        "damaged": damaged,
        "not_finite": not_finite,
        "mean": means.mean if counted else [],
        "std": std.tolist(),
    }


def _shapes(cache: Cache) -> list[dict[str, Any]]:
    if not len(cache) or "shape" not in cache.reader.fields:
        return []
    return [
        {"shape": list(shape), "records": len(cache) if rows is None else len(rows)}
        for shape, rows in cache.reader.groups()
    ]


def _count_lines(path: str) -> int:
    if not os.path.exists(path):
        return 0
    with open(path, "rb") as stream:
        return sum(1 for _ in stream)
