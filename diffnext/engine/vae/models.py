# SPDX-License-Identifier: Apache-2.0
"""Autoencoders from a configuration file, and the step from a picture's weights to a video's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffnext.models.autoencoders.kinds import import_class

CLASSES = ("AutoencoderKL", "AutoencoderKLOpenSora")
VIDEO = ("AutoencoderKLOpenSora",)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def read_config(path: str) -> dict:
    """Read the configuration of an autoencoder.

    Raises:
        ValueError: not JSON, or `_class_name` is none of those that can be trained.
    """
    try:
        config = json.loads(Path(path).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"--config {path} cannot be read: {error}") from error
    name = config.get("_class_name")
    if name not in CLASSES:
        raise ValueError(f"--config {path} has _class_name {name!r}; wanted one of {list(CLASSES)}")
    return config


def build(config: Mapping) -> nn.Module:
    """A fresh autoencoder, drawn with torch's global generator."""
    return import_class(config["_class_name"]).from_config(dict(config))


def load_initial(vae: nn.Module, folder: str) -> list[str]:
    """Start from the weights of a trained autoencoder, of the same kind or of pictures.

    A kernel of pictures becomes the last tap in time of a causal kernel, whose other taps are zero:
    the video is then decoded frame by frame as the pictures were.

    Returns:
        Names that found no weights of a fitting shape and keep their own.
    """
    path = Path(folder) / WEIGHTS
    if not path.exists():
        raise ValueError(
            f"--init {folder} has no {WEIGHTS}; give the folder of a trained autoencoder"
        )
    given = load_file(path)
    kept = []
    state = vae.state_dict()
    for name, own in state.items():
        fitted = inflate(given[name], own) if name in given else None
        if fitted is None:
            kept.append(name)
        else:
            state[name] = fitted
    if len(kept) == len(state):
        raise ValueError(f"--init {folder}: none of its weights fits this configuration")
    vae.load_state_dict(state)
    return kept


def inflate(given: Tensor, own: Tensor) -> Tensor | None:
    """`given` in the shape of `own`, or None where it does not fit."""
    given = given.to(own.dtype)
    if given.shape == own.shape:
        return given
    if given.dim() == 4 and own.dim() == 5 and given.shape == own[:, :, 0].shape:
        kernel = torch.zeros_like(own)
        kernel[:, :, -1] = given
        return kernel
    return None
