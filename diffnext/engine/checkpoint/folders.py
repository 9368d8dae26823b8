# SPDX-License-Identifier: Apache-2.0
"""Which folders are checkpoints, which are whole, and which one a run goes on from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffnext.utils.logging import logger

COMPLETE = "complete.json"
RUN = "run.json"
_NAME = re.compile(r"(?P<prefix>.+)_iter_(?P<step>\d+)$")


@dataclass(frozen=True)
class Checkpoint:
    """One finished checkpoint."""

    folder: Path
    step: int

    def run(self) -> dict[str, Any]:
        """What run.json says.

        Raises:
            ValueError: it is damaged.
        """
        return _read_object(self.folder / RUN)


def listed(run_folder: str | Path) -> list[Checkpoint]:
    """All checkpoints of a run, torn ones too, the one with the most steps first."""
    found = []
    for folder in Path(run_folder, "checkpoints").glob("*_iter_*"):
        match = _NAME.match(folder.name)
        if match and folder.name[0] != "." and folder.is_dir():
            found.append(Checkpoint(folder, int(match["step"])))
    return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)


def newest(run_folder: str | Path) -> Checkpoint | None:
    """The complete checkpoint with the most steps; torn ones are passed over and named."""
    for checkpoint in listed(run_folder):
        flaw = find_flaw(checkpoint.folder)
        if flaw is None:
            return checkpoint
        logger.warning(f"passing over {checkpoint.folder}: {flaw}")
    return None


def find_flaw(folder: Path) -> str | None:
    """Why a checkpoint is not complete; None if it is."""
    if not (folder / COMPLETE).exists():
        return f"it has no {COMPLETE}"
    try:
        sizes = dict(_read_object(folder / COMPLETE)["files"])
        _read_object(folder / RUN)
    except (KeyError, TypeError, ValueError, OSError) as error:
        return f"it is damaged: {error}"
    for name, size in sizes.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, {size} were written"
    return None


def find(resume: str, run_folder: str | Path) -> Checkpoint | None:
    """What a run starts from.

    Args:
        resume: "auto" (the newest complete checkpoint of the run, if any), "none", or the path of a
            checkpoint or of another run. A run that has gone further than that path, or has outlived
            it, goes on from its own checkpoint, so that a repeated command does not repeat the work.
        run_folder: the experiment folder; "" for a run that has none yet.

    Raises:
        ValueError: "none" in a folder that has checkpoints, or a path without a complete one.
    """
    own = newest(run_folder) if run_folder else None
    if resume == "auto":
        return own
    if resume == "none":
        if own is not None:
            raise ValueError(
                f"TRAIN.RESUME is 'none', but {run_folder} has checkpoints up to step {own.step}; "
                "choose another --exp-dir, or resume with 'auto'"
            )
        return None
    if own is not None and not Path(resume).exists():
        logger.info(f"{resume} is gone; {run_folder} goes on from its own step {own.step}")
        return own
    given = _find_at(Path(resume))
    if own is not None and own.step > given.step:
        logger.info(
            f"{run_folder} has gone on to step {own.step} since {resume}, step {given.step}"
        )
        return own
    return given


def _find_at(path: Path) -> Checkpoint:
    """The checkpoint at `path`, or the newest one of the run at `path`, or of its `checkpoints`."""
    match = _NAME.match(path.name)
    if match and find_flaw(path) is None:
        return Checkpoint(path, int(match["step"]))
    found = newest(path)
    if found is None and path.name == "checkpoints":
        found = newest(path.parent)
    if found is None:
        why = find_flaw(path) if match else "no complete checkpoint is in it"
        raise ValueError(
            f"TRAIN.RESUME is {str(path)!r}: {why}; give 'auto', 'none' or a checkpoint's folder"
        )
    return found


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds {type(value).__name__}, wanted is an object")
    return value
