# SPDX-License-Identifier: Apache-2.0
"""Shards of latents in .safetensors, as LightningDiT has them: latents, latents_flip, labels.

`latents` (N, C, H, W) are draws from the posterior, or its means, but not moments: a record of them has a
posterior without spread. They are neither shifted nor scaled: LightningDiT does that when it reads them,
by the mean and std in latents_stats.pt.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from diffnext.data.tools.exchange.sample import Options, Row, Sample, in_pairs, latent_of, point

KNOWN = {"normalisation": "raw", "posterior": "a point: only draws or means were stored"}
SHARD_SAMPLES, SHARD_BYTES = 10_000, 1 << 28


def read(source: str, options: Options) -> tuple[Iterator[Sample], int, dict[str, Any]]:
    """Samples of a folder of shards, their number without mirrored ones, and nothing to state.

    Raises:
        ValueError: no shard, or one without latents and labels.
    """
    files = sorted(glob.glob(os.path.join(glob.escape(source), "*.safetensors")))
    if not files:
        raise ValueError(f"{source} holds no .safetensors")
    total = sum(_shape(path)[0] for path in files)
    return _samples(files, options), total, {}


def write(folder: str, rows: Iterable[Row], options: Options) -> list[str]:
    """Write records as shards. Returns remarks.

    Raises:
        ValueError: records of several shapes, without a label, with variances, or only some of which
            have a mirrored twin.
    """
    shard: list[tuple[np.ndarray, np.ndarray | None, int]] = []
    count = size = 0
    shape: tuple[int, ...] = ()
    for row, twin in in_pairs(rows):
        latents = [latent_of(r, options, "LightningDiT") for r in (row, twin) if r is not None]
        shape = shape or latents[0].shape
        if latents[0].shape != shape:
            raise ValueError(
                f"record {row.number} has latents {latents[0].shape}, others {shape}; LightningDiT takes "
                "one shape: diffnext cache filter --where shape=..."
            )
        if "label" not in row.fields:
            raise ValueError(f"record {row.number} has no label, which LightningDiT needs")
        shard.append((latents[0], latents[1] if twin is not None else None, row.fields["label"]))
        size += sum(latent.nbytes for latent in latents)
        if len(shard) == SHARD_SAMPLES or size >= SHARD_BYTES:
            _write_shard(folder, count, shard)
            shard, count, size = [], count + 1, 0
    flips = shard[0][1] is not None if shard else True
    if shard:
        _write_shard(folder, count, shard)
    remarks = (
        [] if flips else ["there is no latents_flip, which LightningDiT's own loader asks for"]
    )
    if len(shape) == 4:
        remarks.append(
            "latents have frames, and LightningDiT's own loader takes (N, C, H, W) alone"
        )
    return remarks


def _write_shard(
    folder: str, number: int, shard: list[tuple[np.ndarray, np.ndarray | None, int]]
) -> None:
    latents, mirrored, labels = zip(*shard, strict=True)
    tensors = {"latents": np.stack(latents), "labels": np.array(labels, np.int64)}
    twins = [twin for twin in mirrored if twin is not None]
    if twins and len(twins) < len(shard):
        raise ValueError(
            f"{len(twins)} of {len(shard)} records have a mirrored twin; all or none must"
        )
    if twins:
        tensors["latents_flip"] = np.stack(twins)
    save_file(tensors, os.path.join(folder, f"latents_rank00_shard{number:03d}.safetensors"))


def _shape(path: str) -> list[int]:
    """Shape of the latents of a shard, whose tensors are checked."""
    try:
        with safe_open(path, "pt") as shard:
            shapes = {name: list(shard.get_slice(name).get_shape()) for name in shard.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    latents, labels = shapes.get("latents"), shapes.get("labels")
    if latents is None or labels is None:
        raise ValueError(f"{path} has {shapes}; latents and labels are wanted")
    if len(latents) not in (4, 5) or labels != latents[:1]:
        raise ValueError(
            f"{path} has latents {latents} and labels {labels}; (N, C, H, W) or (N, C, T, H, W) and (N,) "
            "are wanted: tokens without height and width cannot be represented"
        )
    if shapes.get("latents_flip", latents) != latents:
        raise ValueError(f"{path} has latents {latents} and latents_flip {shapes['latents_flip']}")
    return latents


def _samples(files: Iterable[str], options: Options) -> Iterator[Sample]:
    for path in files:
        count = _shape(path)[0]
        with safe_open(path, "pt") as shard:  # numpy has no bfloat16
            flips = options.flips and "latents_flip" in shard.keys()
            labels = shard.get_slice("labels")
            for row in range(count):
                fields = {"label": int(labels[row : row + 1][0])}
                for flip, name in enumerate(("latents", "latents_flip")[: 1 + flips]):
                    latent = shard.get_slice(name)[row : row + 1][0].float().numpy()
                    told = {**fields, "flip": flip} if flips else fields
                    yield Sample(point(latent), told, f"{path} {name}[{row}]")
