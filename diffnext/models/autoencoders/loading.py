# SPDX-License-Identifier: Apache-2.0
"""Find the autoencoder of a model folder, load it, and say which one it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from diffnext.models.autoencoders.kinds import KINDS, Settings, import_class
from diffnext.utils.hashes import sha256_of

STEM = "diffusion_pytorch_model"
WEIGHTS = tuple(  # in the order that from_pretrained prefers; one file or several numbered ones
    STEM + part for part in (".safetensors", "-*-of-*.safetensors", ".bin", "-*-of-*.bin")
)


def find_vae(path: str) -> Path:
    """Return the folder of the autoencoder: `path` itself or its sub-folder vae/.

    Raises:
        ValueError: neither holds a config.json that names an autoencoder.
    """
    for folder in (Path(path) / "vae", Path(path)):
        config = folder / "config.json"
        if config.is_file() and "Autoencoder" in _read_json(config).get("_class_name", ""):
            return folder
    raise ValueError(
        f"{path} is neither the folder of an autoencoder nor of a model with vae/: "
        "no config.json with _class_name Autoencoder... in it"
    )


def class_name(folder: Path) -> str:
    """The class that config.json, or else model_index.json one folder up, names; one of KINDS.

    Raises:
        ValueError: diffnext has no autoencoder of that name.
    """
    name = _read_json(folder / "config.json").get("_class_name", "")
    index = folder.parent / "model_index.json"
    listed = _read_json(index).get(folder.name) if index.is_file() else None
    if listed:
        name = listed[1]
    if name not in KINDS:
        raise ValueError(f"{folder} is of class {name!r}; diffnext has {sorted(KINDS)}")
    return name


def vae_class(folder: Path) -> type:
    """The class itself.

    Raises:
        ValueError: diffnext has no autoencoder of that name.
    """
    return import_class(class_name(folder))


def load_vae(path: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Load the autoencoder of a folder or of a model folder, for inference."""
    folder = find_vae(path)
    vae = vae_class(folder).from_pretrained(folder, torch_dtype=dtype)
    return vae.to(device).eval().requires_grad_(False)


def describe_vae(path: str) -> dict[str, Any]:
    """Say which autoencoder a folder holds: class, configuration, sha256 of its weights.

    Reads the files alone, so that two folders can be compared before anything is loaded.
    """
    folder = find_vae(path)
    config = _read_json(folder / "config.json")
    return {
        "class": class_name(folder),
        "config": {key: config[key] for key in sorted(config) if not key.startswith("_")},
        "weights_sha256": hash_weights(folder),
    }


def settings_of(folder: Path) -> Settings:
    """The configuration of an autoencoder, by its files alone where they state what is asked for."""
    return Settings(class_name(folder), _read_json(folder / "config.json"))


def strides_of(folder: Path) -> tuple[int, int]:
    """Frames and pixels that one latent stands for, by the configuration alone."""
    return settings_of(folder).strides()


def hash_weights(folder: Path) -> str:
    """sha256 over the weight files in the order of their names.

    Raises:
        ValueError: there are none.
    """
    for pattern in WEIGHTS:
        files = sorted(folder.glob(pattern))
        if files:
            break
    else:
        raise ValueError(f"{folder} has no weights, wanted {' or '.join(WEIGHTS)}")
    return sha256_of(files)


def _read_json(path: Path) -> dict[str, Any]:
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)
