# SPDX-License-Identifier: Apache-2.0
"""The state of a training on disk: one file, replaced in one step, and the log that goes with it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffnext.utils.files import sync_file

STATE = "training_state.pt"
METRICS = "metrics.jsonl"


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state aside, then give it its name: a killed run leaves the old state or the new."""
    aside = folder / f".{STATE}.{os.getpid()}.tmp"
    torch.save(dict(state), aside)
    sync_file(aside)
    os.replace(aside, folder / STATE)


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
    """Drop the lines after `step`: those of a run that was killed before it saved."""
    path = folder / METRICS
    if not path.exists():
        return
    rows = [line for line in path.read_text().splitlines() if _step(line) <= step]
    aside = path.with_suffix(".tmp")
    aside.write_text("".join(row + "\n" for row in rows))
    os.replace(aside, path)


def _step(line: str) -> float:
    """The step of a line; a line that was cut off by a kill counts as the last."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")
