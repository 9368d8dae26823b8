# SPDX-License-Identifier: Apache-2.0
"""The state of a training on disk: one file, replaced in one step, and the log that goes with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffnext.utils import metrics
from diffnext.utils.files import replacing

STATE = "training_state.pt"
METRICS = "metrics.jsonl"


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the state in one step: a killed run leaves the old one or the new."""
    with replacing(folder / STATE) as aside:
        torch.save(dict(state), aside)


def load(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The saved state, or None where there is none.

    Raises:
        ValueError: it was made with other settings, which are named.
    """
    path = folder / STATE
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key, value in settings.items():
        if state["settings"].get(key) != value:
            raise ValueError(
                f"{path} was made with {key} {state['settings'].get(key)!r}, now it is {value!r}; "
                "resume with the old value, or train into another --output"
            )
    return state


def append(folder: Path, row: Mapping[str, Any]) -> None:
    """Add one line to the log of numbers."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(dict(row)) + "\n")


def cut(folder: Path, step: int) -> None:
    """Drop the lines after `step`: those of a run that was killed before it saved.

    Raises:
        ValueError: a damaged line before the end.
    """
    metrics.cut_rows(folder / METRICS, step=step)
