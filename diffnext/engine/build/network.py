# SPDX-License-Identifier: Apache-2.0
"""Which network a run trains: what it is made of, and its shape without memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffnext.engine.blocks import recompute_blocks
from diffnext.engine.build.config import Config
from diffnext.pipelines.builder import build_pipeline
from diffnext.pipelines.train_base import TrainPipeline


def taken_modules(cfg: Config, *, embedded: bool) -> dict[str, str]:
    """Components to take from elsewhere; a cache of embedded prompts needs no text encoder."""
    modules = dict(cfg.PIPELINE.MODULES)
    return (_without_text(cfg.MODEL.WEIGHTS) | modules) if embedded else modules


def _without_text(path: str) -> dict[str, str]:
    names = ("tokenizer", "text_encoder")
    return {name: "" for name in names if Path(path, name).is_dir()}


def make_skeleton(
    cfg: Config, modules: Mapping[str, str], config: Mapping[str, Any]
) -> TrainPipeline:
    """The family with a network without memory, frozen as it will be."""
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):
        pipe = build_pipeline(
            cfg.MODEL.WEIGHTS,
            cfg.PIPELINE.TYPE,
            "float32",
            modules={**modules, **_without_text(cfg.MODEL.WEIGHTS)},
            model_config=settings,
            loss_repeat=cfg.TRAIN.LOSS_REPEAT,
        )
        recompute(cfg, configure(cfg, pipe))
        return pipe


def configure(cfg: Config, pipe: TrainPipeline) -> nn.Module:
    """The network of a family, frozen as the task wants, with the checkpointing of its own."""
    own = 0 if cfg.TRAIN.CHECKPOINT_KEEP else cfg.TRAIN.CHECKPOINTING
    return pipe.configure(checkpointing=own)


def recompute(cfg: Config, net: nn.Module) -> None:
    """Set checkpointing by operators, if any are chosen; a network is copied before that, not after."""
    if cfg.TRAIN.CHECKPOINT_KEEP:
        recompute_blocks(net, cfg.TRAIN.CHECKPOINT_KEEP)
