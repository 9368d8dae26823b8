# SPDX-License-Identifier: Apache-2.0
"""Which classes of autoencoders there are, and what a configuration says of one that is not imported.

diffusers takes seconds to import; to refuse a cache, or to see that nothing is left to encode, the files
of an autoencoder are enough.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A class of autoencoders."""

    module: str  # that has it
    strides: Callable[[Config], tuple[int, int]]  # (time, space) by its configuration


def _halvings(config: Config) -> int:
    """Pixels a latent, where each block but the last halves the size."""
    return 2 ** (len(config["block_out_channels"]) - 1)


def _opensora(config: Config) -> tuple[int, int]:
    video = [name.endswith("3D") for name in config["down_block_types"]]
    return 2 ** sum(video[1:]), _halvings(config)


def _ltx(config: Config) -> tuple[int, int]:
    if len(config["decoder_block_out_channels"]) == len(config["decoder_layers_per_block"]):
        return 8, 32  # as NOVA writes it down, which knows version 0.9.5 alone
    halvings = 2 ** sum(config["spatio_temporal_scaling"])
    time, space = config["temporal_compression_ratio"], config["spatial_compression_ratio"]
    return time or config["patch_size_t"] * halvings, space or config["patch_size"] * halvings


PACKAGE = "diffnext.models.autoencoders"
KINDS = {
    "AutoencoderKL": Kind(f"{PACKAGE}.autoencoder_kl", lambda config: (1, _halvings(config))),
    "AutoencoderKLCogVideoX": Kind(
        f"{PACKAGE}.autoencoder_kl_cogvideox",
        lambda config: (int(config["temporal_compression_ratio"]), _halvings(config)),
    ),
    "AutoencoderKLLTXVideo": Kind(f"{PACKAGE}.autoencoder_kl_ltx", _ltx),
    "AutoencoderKLOpenSora": Kind(f"{PACKAGE}.autoencoder_kl_opensora", _opensora),
}


def import_class(name: str) -> type:
    """The class of a kind, with all that it needs."""
    return getattr(importlib.import_module(KINDS[name].module), name)


def class_defaults(name: str) -> dict[str, Any]:
    """What a class has for settings that are left out, as JSON; nothing of one that diffnext lacks."""
    if name not in KINDS:
        return {}
    parameters = inspect.signature(import_class(name).__init__).parameters.values()
    return json.loads(
        json.dumps({p.name: p.default for p in parameters if p.default is not p.empty})
    )


class Settings(dict[str, Any]):
    """A configuration that asks its class for what it leaves out.

    Args:
        name: of the class, one of KINDS.
        stated: what config.json holds.
    """

    def __init__(self, name: str, stated: Config) -> None:
        super().__init__(stated)
        self.name = name

    def __missing__(self, key: str) -> Any:
        return class_defaults(self.name)[key]

    def strides(self) -> tuple[int, int]:
        """Frames and pixels that one latent stands for, as `modeling_utils.strides` has it of a model."""
        return KINDS[self.name].strides(self)
