# SPDX-License-Identifier: Apache-2.0
"""Where the components of a run's model lie."""

from __future__ import annotations

from pathlib import Path

from diffnext.engine.build.config import Config
from diffnext.pipelines.train_base import TrainPipeline


def network_folder(cfg: Config, family: type[TrainPipeline]) -> Path:
    """Where the config of the network lies, and its weights if it has any."""
    if cfg.MODEL.TYPE != family.trained:
        raise ValueError(
            f"MODEL.TYPE is {cfg.MODEL.TYPE!r}; {family.__name__} trains {family.trained!r}"
        )
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "MODEL.WEIGHTS is empty; name the folder of a pipeline, with model_index.json"
        )
    if not Path(cfg.MODEL.WEIGHTS).is_dir():
        raise ValueError(
            f"MODEL.WEIGHTS is {cfg.MODEL.WEIGHTS!r}, and there is no such folder; that of a pipeline "
            "is wanted, with model_index.json"
        )
    return component_folder(cfg, family.trained)


def component_folder(cfg: Config, name: str) -> Path:
    """Where a component of the model lies: where PIPELINE.MODULES says, else in MODEL.WEIGHTS."""
    return Path(cfg.PIPELINE.MODULES.get(name) or Path(cfg.MODEL.WEIGHTS, name))
