# SPDX-License-Identifier: Apache-2.0
"""Weights that a new network starts from, those of another one where they fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from diffnext.engine import component_files
from diffnext.engine.build.config import Config
from diffnext.pipelines.sources import newest_snapshot


@dataclass(frozen=True)
class FirstWeights:
    """Tensors that a network takes from safetensors files; the others stay as they are."""

    folder: Path
    names: frozenset[str]

    @torch.no_grad()
    def load(self, net: nn.Module) -> None:
        """Copy them, a tensor at a time.

        Raises:
            ValueError: some are gone, as where the run that saved them keeps newer ones only.
        """
        state, taken = net.state_dict(), set()
        for file in sorted(self.folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as content:
                for name in self.names.intersection(content.keys()):
                    state[name].copy_(content.get_tensor(name))
                    taken.add(name)
        if gone := self.names - taken:
            raise ValueError(
                f"MODEL.START_FROM: {len(gone)} of {len(self.names)} tensors are gone from {self.folder} "
                "since the run was planned; start it again, from weights that stay"
            )


def first_weights_of(
    cfg: Config, settings: Mapping[str, Any], net: nn.Module
) -> FirstWeights | None:
    """What MODEL.START_FROM has for a new network; None where it is not set.

    Args:
        settings: of the network, empty if its weights are loaded.
        net: the network, may be on the meta device.

    Raises:
        ValueError: the network is not new, there is no other one, or nothing of it fits.
    """
    start = cfg.MODEL.START_FROM
    if not start:
        return None
    if not settings:
        raise ValueError(
            f"MODEL.START_FROM is {start!r}, but the network's weights are loaded from elsewhere "
            f"(MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r}, PIPELINE.MODULES {dict(cfg.PIPELINE.MODULES)}); "
            "describe a new network by MODEL.CONFIG, or leave MODEL.START_FROM out"
        )
    folder = Path(start)
    if not component_files.has_weights(folder):
        try:
            folder = Path(newest_snapshot(start), cfg.MODEL.TYPE)
        except ValueError as error:
            raise ValueError(f"MODEL.START_FROM: {error}") from error
    return FirstWeights(folder, frozenset(_fitting(folder, net.state_dict())))


def _fitting(folder: Path, wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of saved tensors that a network has too, in the same shape."""
    found = component_files.saved_shapes(folder)
    if found is None:
        raise ValueError(
            f"MODEL.START_FROM: {folder} has no safetensors file; name a network that was saved by a run"
        )
    fits = [name for name in found if name in wanted and found[name] == tuple(wanted[name].shape)]
    if not fits:
        raise ValueError(
            f"MODEL.START_FROM: none of the {len(found)} tensors in {folder} has a name and shape of "
            f"the network's {len(wanted)}; name a network of the same kind and width"
        )
    return fits
