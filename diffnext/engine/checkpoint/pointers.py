# SPDX-License-Identifier: Apache-2.0
"""Which checkpoint is the latest and which did best on held-out data; two files of a run say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from diffnext.engine.checkpoint.folders import Checkpoint, find_flaw, listed
from diffnext.utils import files

BEST, LATEST = "best.json", "latest.json"


class Score(TypedDict):
    """What an evaluation made of the weights of a checkpoint; kept in its run.json."""

    metric: str
    mode: str  # "min": the lower the better
    value: float
    measured: str  # digest of the records and levels that it was measured on


def point_at_latest(run_folder: Path, latest: Checkpoint) -> None:
    """Write the name of the checkpoint that was completed last into latest.json.

    For scripts of users; a run that goes on looks at the folders themselves.
    """
    _point(run_folder / LATEST, latest)


def point_at_best(run_folder: Path) -> Checkpoint | None:
    """Write the name of the best complete checkpoint into best.json; None if no one has a score.

    Only those are compared that were measured like the latest one with a score: by the same metric,
    on the same records and levels.
    """
    scored = []
    for found in listed(run_folder):
        score = found.run().get("score") if find_flaw(found.folder) is None else None
        if score is not None:
            scored.append((score, found))
    if not scored:
        return None
    comparable = [pair for pair in scored if _how(pair[0]) == _how(scored[0][0])]
    score, best = min(comparable, key=lambda pair: pair[0]["value"])
    _point(run_folder / BEST, best, **score)
    return best


def _how(score: Score) -> tuple[str, str | None]:
    """By what a score was measured; those of earlier versions do not say on which records."""
    return score["metric"], score.get("measured")


def _point(file: Path, checkpoint: Checkpoint, **more: Any) -> None:
    place = checkpoint.folder.relative_to(file.parent).as_posix()
    files.write_json(file, {**more, "step": checkpoint.step, "checkpoint": place})
