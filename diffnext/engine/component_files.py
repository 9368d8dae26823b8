# SPDX-License-Identifier: Apache-2.0
"""What the files of a component say, its configuration and its weights, without loading it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a component.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; a component's folder holds its config.json")
    try:
        return dict(json.loads(file.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is no JSON object: {error}; copy or save it again") from error


def has_weights(folder: Path) -> bool:
    """Whether a component's folder has weights, of whatever format."""
    return any(file.suffix in (".safetensors", ".bin") for file in folder.glob("*.*"))


def saved_shapes(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """Name and shape of each tensor of a component's weights; None if there is no safetensors file.

    Raises:
        ValueError: a file is damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as content:
                for name in content.keys():
                    shapes[name] = tuple(content.get_slice(name).get_shape())
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged: {error}; copy or save it again") from error
    return shapes


def check_weights(folder: Path, wanted: Mapping[str, torch.Tensor]) -> None:
    """Compare the names and shapes of saved weights with those of the network.

    Raises:
        ValueError: some are missing, unknown or of another shape, or a pickle holds more than tensors.
    """
    found = saved_shapes(folder)
    if found is None:
        check_pickles(folder)
        return
    missing = sorted(set(wanted) - set(found))
    extra = sorted(set(found) - set(wanted))
    if missing or extra:
        raise ValueError(
            f"{folder} lacks {_few(missing)} and has {_few(extra)} that the network does not know; "
            "its config.json belongs to other weights"
        )
    for name, shape in found.items():
        if shape != tuple(wanted[name].shape):
            raise ValueError(
                f"{folder}: {name} has shape {list(shape)}, its config.json says {list(wanted[name].shape)}"
            )


def check_pickles(folder: Path) -> None:
    """Refuse weights in pickles that hold anything but tensors; nothing of them is run to see that."""
    for file in sorted(folder.glob("*.bin")):
        try:
            torch.load(file, map_location="meta", weights_only=True)
        except Exception as error:  # damaged bytes raise whatever they happen to mean
            raise ValueError(
                f"{file} is damaged, or holds more than tensors and would run code; it is not read. "
                "Take weights in safetensors files"
            ) from error


def _few(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    return f"{len(names)} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
