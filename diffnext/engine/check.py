# SPDX-License-Identifier: Apache-2.0
"""Whether data, configuration and weights fit together, found out before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from diffnext.data.records import RecordReader
from diffnext.pipelines.train_base import Expected

_STANDS_FOR = {"caption": ("caption", "text")}  # fields of which one is enough


def check_data(reader: RecordReader, *, reads: Sequence[str], expected: Expected) -> None:
    """Compare a dataset with what the network reads.

    Raises:
        ValueError: a field is missing, or channels, size or text width differ; both values are named.
    """
    for field in reads:
        names = _STANDS_FOR.get(field, (field,))
        if not any(name in reader.fields for name in names):
            raise ValueError(
                f"{reader.path} has no field {' or '.join(map(repr, names))}, which the pipeline reads; "
                f"its fields are {sorted(reader.fields)}"
            )
    for shape in reader.shapes()[0]:
        _check_shape(reader, tuple(shape), expected)
    _check_text(reader, expected)


def _check_shape(reader: RecordReader, shape: tuple[int, ...], expected: Expected) -> None:
    channels, size = shape[0] // 2, shape[-2:]
    if expected.channels not in (None, channels):
        raise ValueError(
            f"{reader.path} has moments of {channels} latent channels (shape {list(shape)}), the "
            f"network takes {expected.channels}; build the cache with the VAE of this model"
        )
    if expected.size not in (None, size):
        raise ValueError(
            f"{reader.path} has latents of {size[0]} x {size[1]}, the network takes "
            f"{expected.size[0]} x {expected.size[1]}; build the cache at the network's resolution"
        )


def _check_text(reader: RecordReader, expected: Expected) -> None:
    if not embedded_text(reader) or expected.text_width is None:
        return
    record = reader[0]
    width = record["caption" if "caption" in record else "text"]["shape"][-1]
    if width != expected.text_width:
        raise ValueError(
            f"{reader.path} has prompt embeddings of width {width}, the network takes "
            f"{expected.text_width}; embed the prompts with the text encoder of this model"
        )


def embedded_text(reader: RecordReader) -> bool:
    """Whether prompts are stored as embeddings, so that no text encoder is needed."""
    kinds = [reader.fields[name] for name in ("caption", "text") if name in reader.fields]
    return bool(kinds) and isinstance(kinds[0], Mapping)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a component.

    Raises:
        ValueError: there is none.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; a component's folder holds its config.json")
    return json.loads(file.read_text())


def has_weights(folder: Path) -> bool:
    """Whether a component's folder has weights, of whatever format."""
    return any(file.suffix in (".safetensors", ".bin") for file in folder.glob("*.*"))


def saved_shapes(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """Name and shape of each tensor of a component's weights; None if there is no safetensors file."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as content:
            for name in content.keys():
                shapes[name] = tuple(content.get_slice(name).get_shape())
    return shapes


def check_weights(folder: Path, wanted: Mapping[str, torch.Tensor]) -> None:
    """Compare the names and shapes of saved weights with those of the network.

    Raises:
        ValueError: some are missing, unknown or of another shape.
    """
    found = saved_shapes(folder)
    if found is None:
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


def _few(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    return f"{len(names)} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
