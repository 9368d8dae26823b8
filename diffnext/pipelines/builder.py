# SPDX-License-Identifier: Apache-2.0
"""Pipelines by name, made of the components of a folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffnext.pipelines.families import PIPELINES
from diffnext.pipelines.loading import INDEX, ComponentLoader, read_index
from diffnext.utils.registry import construct
from diffnext.utils.temporary import temporary_folder

DTYPES = ("float32", "float16", "bfloat16")


def get_pipeline_path(
    pretrained_path: str,
    module_dict: Mapping[str, str] | None = None,
    module_config: Mapping[str, Mapping[str, Any]] | None = None,
    target_path: str | None = None,
) -> str:
    """Return a folder like `pretrained_path` with some components replaced.

    Nothing is copied: the folder holds links.

    Args:
        pretrained_path: a folder with model_index.json.
        module_dict: component to the folder that replaces it, or "" to go without it.
        module_config: component to the content of its config.json.
        target_path: where to make the folder; None for a new temporary one.

    Returns:
        `pretrained_path` itself where there is nothing to replace.
    """
    if not module_dict and not module_config:
        return pretrained_path
    source, index = Path(pretrained_path).resolve(), read_index(pretrained_path)
    target = Path(tempfile.mkdtemp(prefix="diffnext_") if target_path is None else target_path)
    target.mkdir(parents=True, exist_ok=True)
    for name in [name for name, entry in index.items() if isinstance(entry, list)]:
        folder = (module_dict or {}).get(name, str(source / name))
        if not folder:
            index[name] = [None, None]
            continue
        _link_component(Path(folder).resolve(), target / name, (module_config or {}).get(name))
    (target / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return str(target)


def build_pipeline(
    pretrained_path: str,
    pipe_type: str | type | None = None,
    precision: str = "bfloat16",
    config: Any = None,
    *,
    modules: Mapping[str, str] | None = None,
    model_config: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Make a pipeline from a folder.

    Args:
        pretrained_path: a folder with model_index.json.
        pipe_type: registered name, "module:Class" or class.
        precision: number format of what does not learn: float32, float16 or bfloat16. A network
            that learns is float32.
        config: takes the place of the arguments around it by its PIPELINE.TYPE, PIPELINE.MODULES,
            MODEL.PRECISION and MODEL.CONFIG.
        modules: component to the folder that replaces it, or "" to go without it.
        model_config: settings of a network with new random weights, over those of the folder; none
            to load its weights. Of use to training pipelines.
        options: of the pipeline's constructor, such as `dropout` of training pipelines.

    Raises:
        ValueError: an unknown pipeline, precision, component or option.
    """
    if config is not None:
        pipe_type, precision = config.PIPELINE.TYPE, config.MODEL.PRECISION
        modules, model_config = config.PIPELINE.MODULES, config.MODEL.CONFIG
    cls = PIPELINES.get(pipe_type) if isinstance(pipe_type, str) else pipe_type
    if precision not in DTYPES:
        raise ValueError(f"precision is {precision!r}; one of {DTYPES} is wanted")
    dtype = getattr(torch, precision)
    if hasattr(cls, "from_pretrained"):
        with temporary_folder() as links:
            path = get_pipeline_path(pretrained_path, modules, target_path=links)
            return cls.from_pretrained(path, torch_dtype=dtype, **options)
    loader = ComponentLoader(pretrained_path, modules or {}, dtype)
    parts = {"vae_config": loader.config("vae")}
    if "caption" in cls.reads:
        parts |= {"tokenizer": loader.tokenizer(), "text_encoder": loader.text_encoder()}
    return construct(
        cls,
        loader.network(cls.trained, model_config or {}),
        loader.noise_scheduler(),
        options=parts | options,
        key="pipeline options",
    )


def _link_component(source: Path, target: Path, config: Mapping[str, Any] | None) -> None:
    if config is None:
        os.symlink(source, target, target_is_directory=True)
        return
    target.mkdir()
    for file in source.iterdir():
        if file.name != "config.json":
            os.symlink(file, target / file.name)
    (target / "config.json").write_text(json.dumps(dict(config), indent=2), encoding="utf-8")
