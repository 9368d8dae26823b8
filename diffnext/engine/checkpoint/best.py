# SPDX-License-Identifier: Apache-2.0
"""Which checkpoint did best on held-out data; <run>/best.json says so."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from diffnext.engine.checkpoint.folders import Checkpoint, find_flaw, listed
from diffnext.utils import files

BEST = "best.json"


class Score(TypedDict):
    """What an evaluation made of the weights of a checkpoint; kept in its run.json."""

    metric: str
    value: float  # the lower the better


def point_at_best(run_folder: Path) -> Checkpoint | None:
    """Write the name of the best complete checkpoint into best.json; None if no one has a score.

    Only those are compared that have a score by the same metric as the latest one with any.
    """
    scored = []
    for found in listed(run_folder):
        score = found.run().get("score") if find_flaw(found.folder) is None else None
        if score is not None:
            scored.append((score, found))
    if not scored:
        return None
    comparable = [pair for pair in scored if pair[0]["metric"] == scored[0][0]["metric"]]
    score, best = min(comparable, key=lambda pair: pair[0]["value"])
    place = best.folder.relative_to(run_folder).as_posix()
    files.write_json(run_folder / BEST, {**score, "step": best.step, "checkpoint": place})
    return best
