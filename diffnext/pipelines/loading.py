# SPDX-License-Identifier: Apache-2.0
"""Load single components of a pipeline's folder, for training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import SchedulerMixin
from torch import nn

from diffnext.pipelines import components

INDEX = "model_index.json"


def read_index(path: str | Path) -> dict[str, Any]:
    """The content of a folder's model_index.json.

    Raises:
        FileNotFoundError: no such file; the message says what the folder should be.
    """
    file = Path(path) / INDEX
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist; the folder of a pipeline is wanted, which holds {INDEX} and "
            "one folder a component"
        )
    return json.loads(file.read_text(encoding="utf-8"))


def scheduler_class(name: str, key: str) -> type[SchedulerMixin]:
    """The scheduler called `name`, of diffnext or else of diffusers; `key` is for the message."""
    found = getattr(components, name, None) or getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
        raise ValueError(
            f"scheduler_config.json has {key} {name!r}, which is no scheduler of diffnext or diffusers"
        )
    return found


class ComponentLoader:
    """Reads the components of a folder one by one.

    Args:
        path: a folder with model_index.json.
        modules: component to the folder that replaces it, or "" to go without it.
        dtype: number format of components that do not learn.

    Raises:
        ValueError: `modules` has a component that model_index.json lacks.
    """

    def __init__(self, path: str, modules: Mapping[str, str], dtype: torch.dtype) -> None:
        self.path = Path(path)
        index = read_index(path)
        self.index = {name: entry for name, entry in index.items() if isinstance(entry, list)}
        self.modules = modules
        self.dtype = dtype
        unknown = sorted(set(modules) - set(self.index))
        if unknown:
            raise ValueError(
                f"PIPELINE.MODULES has {unknown}; {self.path / INDEX} has {sorted(self.index)}"
            )

    def folder(self, name: str) -> Path | None:
        """Where a component is; None where there is none."""
        if self.index.get(name, [None])[0] is None:
            return None
        given = self.modules.get(name, str(self.path / name))
        return Path(given) if given else None

    def config(self, name: str) -> dict[str, Any]:
        """The content of a component's config.json."""
        folder = self._required(name)
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))

    def network(self, name: str, settings: Mapping[str, Any]) -> nn.Module:
        """The network that learns, in float32.

        Args:
            settings: over those of its config.json, for a network with new random weights; empty
                to load the weights.
        """
        cls = self._class(name)
        if not settings:
            return cls.from_pretrained(self._required(name), torch_dtype=torch.float32)
        config = self.config(name)
        unknown = sorted(set(settings) - set(config))
        if unknown:
            wanted = sorted(key for key in config if not key.startswith("_"))
            raise ValueError(f"MODEL.CONFIG has {unknown}; {cls.__name__} takes {wanted}")
        return cls.from_config(config | dict(settings))

    def noise_scheduler(self) -> SchedulerMixin:
        """The scheduler for training, which may differ from that for sampling."""
        folder = self._required("scheduler")
        file = folder / "scheduler_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        name = config.get("_noise_class_name", self.index["scheduler"][1])
        return scheduler_class(name, "_noise_class_name").from_config(config)

    def tokenizer(self) -> transformers.PreTrainedTokenizerBase | None:
        """The tokenizer, where the folder has one."""
        folder = self.folder("tokenizer")
        return None if folder is None else self._class("tokenizer").from_pretrained(folder)

    def text_encoder(self) -> nn.Module | None:
        """The text encoder, frozen, where the folder has one."""
        folder = self.folder("text_encoder")
        if folder is None:
            return None
        encoder = self._class("text_encoder").from_pretrained(folder, dtype=self.dtype)
        return encoder.eval().requires_grad_(False)

    def _required(self, name: str) -> Path:
        folder = self.folder(name)
        if folder is None:
            raise ValueError(f"{self.path / INDEX} has no {name}, which training needs")
        return folder

    def _class(self, name: str) -> Any:
        """The class of a component; of diffnext the installed one, wherever the folder points."""
        self._required(name)
        module, cls = self.index[name]
        home = components if module.startswith("diffnext.") else transformers
        if not hasattr(home, cls):
            raise ValueError(
                f"{self.path / INDEX} names {module}.{cls}, which {home.__name__} lacks"
            )
        return getattr(home, cls)
