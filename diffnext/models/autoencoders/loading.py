# SPDX-License-Identifier: Apache-2.0
"""Find the autoencoder of a model folder, load it, and say which one it is."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffnext.models.autoencoders.modeling_utils import strides
from diffnext.utils.hashes import sha256_of

PACKAGE = "diffnext.models.autoencoders"
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


def vae_class(folder: Path) -> type:
    """Find the class that config.json, or else model_index.json one folder up, names.

    Raises:
        ValueError: diffnext has no autoencoder of that name.
    """
    name = _read_json(folder / "config.json").get("_class_name", "")
    index = folder.parent / "model_index.json"
    listed = _read_json(index).get(folder.name) if index.is_file() else None
    if listed:
        name = listed[1]
    classes = _classes()
    if name not in classes:
        raise ValueError(f"{folder} is of class {name!r}; diffnext has {sorted(classes)}")
    return classes[name]


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
        "class": vae_class(folder).__name__,
        "config": {key: config[key] for key in sorted(config) if not key.startswith("_")},
        "weights_sha256": hash_weights(folder),
    }


def default_config(path: str) -> dict[str, Any]:
    """What the class of the autoencoder in a folder, or in a model folder, has for what is left out."""
    return complete_config(vae_class(find_vae(path)), {})


def class_defaults(name: str) -> dict[str, Any]:
    """The same of a class by its name; nothing of one that diffnext does not have."""
    cls = _classes().get(name)
    return {} if cls is None else complete_config(cls, {})


def complete_config(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of a class, tuples as JSON has them: lists."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    full = {p.name: p.default for p in parameters if p.default is not p.empty}
    full |= {key: value for key, value in config.items() if not key.startswith("_")}
    return json.loads(json.dumps(full))


def strides_of(folder: Path) -> tuple[int, int]:
    """Frames and pixels that one latent stands for, by the configuration alone."""
    cls = vae_class(folder)
    with torch.device("meta"):  # layers without memory
        return strides(cls.from_config(cls.load_config(folder)))


def _classes() -> dict[str, type]:
    """The autoencoders of this package by class name."""
    package = importlib.import_module(PACKAGE)
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("autoencoder_"):
            module = importlib.import_module(f"{PACKAGE}.{info.name}")
            for name, value in vars(module).items():
                if isinstance(value, type) and value.__module__ == module.__name__:
                    found[name] = value
    return {name: value for name, value in found.items() if name.startswith("Autoencoder")}


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
