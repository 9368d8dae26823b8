# SPDX-License-Identifier: Apache-2.0
"""What may go: old checkpoints, and what a killed save has left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from diffnext.engine.checkpoint.folders import find_flaw, listed
from diffnext.utils.logging import logger


def sweep(run_folder: Path) -> None:
    """Remove what saves that were killed have left: drafts, and torn checkpoints already replaced."""
    for parent in averages(run_folder) | {run_folder / "checkpoints"}:
        for left in [*parent.glob(".*_iter_*.tmp"), *parent.glob(".*_iter_*.old")]:
            shutil.rmtree(left)
            logger.info(f"removed {left}, left by a save that did not finish")


def forget(run_folder: Path, *, keep: int, keep_every: int, spare: Iterable[Path]) -> None:
    """Remove the oldest complete checkpoints, by time of writing, with their averages.

    Args:
        keep: how many of the latest remain; 0 for all.
        keep_every: those of a step divisible by this remain for ever; 0 for none.
        spare: checkpoints that remain in any case.
    """
    if keep == 0:
        return
    whole = [found for found in listed(run_folder) if find_flaw(found.folder) is None]
    whole.sort(key=lambda found: found.folder.stat().st_mtime_ns, reverse=True)
    spared = {path.absolute() for path in spare}
    for old in whole[keep:]:
        if (keep_every and old.step % keep_every == 0) or old.folder.absolute() in spared:
            continue
        for parent in averages(run_folder):  # first: a checkpoint that is gone is not found again
            _remove(parent / old.folder.name)
        _remove(old.folder)
        logger.info(f"removed {old.folder}, older than the last {keep}")


def _remove(folder: Path) -> None:
    """Take a folder's name from it at once; what an interruption leaves is swept up by the next save."""
    if folder.exists():
        left = folder.with_name(f".{folder.name}.old")
        os.rename(folder, left)
        shutil.rmtree(left)


def averages(run_folder: Path) -> set[Path]:
    """The folders of exported averages: ema_checkpoints, ema_<decay>_checkpoints."""
    return set(run_folder.glob("ema*_checkpoints"))
