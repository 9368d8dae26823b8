# SPDX-License-Identifier: Apache-2.0
"""The data of a run: what is read, and what reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffnext.data.datasets import open_datasets
from diffnext.data.loader import Loader
from diffnext.data.records import RecordReader
from diffnext.distributed.env import Env
from diffnext.utils.registry import construct

Config = Any  # diffnext.config.CfgNode, which this layer does not import


def datasets_of(cfg: Config) -> tuple[list[RecordReader], list[float]]:
    """The datasets, and how often each passes in an epoch."""
    if not cfg.TRAIN.DATASET:
        raise ValueError("TRAIN.DATASET is empty; name a folder that tools/build_cache.py made")
    if cfg.TRAIN.LOADER != "vae_train":
        raise ValueError(f"TRAIN.LOADER is {cfg.TRAIN.LOADER!r}; there is 'vae_train'")
    return open_datasets(cfg.TRAIN.DATASET, cfg.TRAIN.DATASET2)


def make_loader(
    cfg: Config, readers: Sequence[RecordReader], shares: Sequence[float], env: Env
) -> Loader:
    """What hands this process its batches."""
    options = {
        "batch_size": cfg.TRAIN.BATCH_SIZE,
        "accum_steps": cfg.SOLVER.ACCUM_STEPS,
        "seed": cfg.RNG_SEED,
        "rank": env.rank,
        "world": env.world,
        "num_threads": cfg.TRAIN.NUM_THREADS,
        "weights": shares,
        "pin_memory": env.device.type == "cuda",
    }
    options |= dict(cfg.TRAIN.LOADER_CONFIG)
    return construct(Loader, readers, options=options, key="TRAIN.LOADER_CONFIG")
