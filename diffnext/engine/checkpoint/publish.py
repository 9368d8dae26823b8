# SPDX-License-Identifier: Apache-2.0
"""From a folder with the run's state to a checkpoint: what others read is added, then it gets its name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from diffnext.engine.checkpoint.folders import COMPLETE, RUN, find_flaw
from diffnext.engine.tensors import SavedTensors, save_network
from diffnext.utils import files


@dataclass(frozen=True)
class Export:
    """A network to write in the layout of diffusers.

    Args:
        net: says the configuration.
        role, module: whose weights, and the name of their part and folder.
        averages: names of its running averages; each is written into a folder of its own.
    """

    net: nn.Module
    role: str
    module: str
    averages: Sequence[str]

    def write(self, aside: Path, final: Path) -> list[Path]:
        """Write the weights into `aside`, and each average into a draft; return where these belong."""
        saved = SavedTensors(aside / "state")
        weights = saved.below(f"roles.{self.role}.{self.module}.")
        save_network(self.net, [weights], aside / self.module)
        places = [final.parents[1] / f"{name}_checkpoints" / final.name for name in self.averages]
        for name, place in zip(self.averages, places, strict=True):
            average = saved.below(f"{name}.{self.role}.{self.module}.")
            clear(draft_of(place))
            save_network(self.net, [weights, average], draft_of(place) / self.module)
        return places


def draft_of(final: Path) -> Path:
    """Where a folder is written before it gets its name."""
    return final.with_name(f".{final.name}.tmp")


def clear(draft: Path) -> None:
    """Make an empty folder."""
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir(parents=True)


def publish(aside: Path, final: Path, *, export: Export, run: dict[str, Any]) -> None:
    """Complete a checkpoint, make it durable, and give it its name."""
    averages = export.write(aside, final)
    files.write_json(aside / RUN, run)
    files.sync_tree(aside)
    files.write_json(aside / COMPLETE, {"step": run["step"], "files": files.sizes(aside)})
    for place in averages:  # where there is one already, its checkpoint is torn
        files.promote(draft_of(place), place, replace=True)
    files.promote(aside, final, replace=find_flaw(final) is not None, durable=True)
