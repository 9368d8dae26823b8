# SPDX-License-Identifier: Apache-2.0
"""The page that shows what a run on the shapes world has learned: pictures, curves and measured shares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffnext.utils import html

SMOOTHING = 0.95  # share of the past in the drawn losses


@dataclass(frozen=True)
class Step:
    """One command of the run."""

    title: str
    command: str
    seconds: float


@dataclass(frozen=True)
class Task:
    """One training, and what was generated with it."""

    name: str
    metrics: Path  # logs/metrics.jsonl of the experiment folder
    scores: Path  # what tools/score_shapes.py wrote
    generated: Path  # folder of pictures or videos


def write_report(
    path: Path, steps: Sequence[Step], tasks: Sequence[Task], *, shown: int = 48
) -> Path:
    """Write one self-contained page; returns its path."""
    total = sum(step.seconds for step in steps)
    rows = [(step.title, f"{step.seconds:.0f} s", f"python {step.command}") for step in steps]
    rows.append(("all", f"{total / 60:.1f} min", ""))
    parts = [task_section(task, shown) for task in tasks]
    parts.append(html.section("What was run", html.table(["stage", "time", "command"], rows)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html.page("diffnext on the shapes world", *parts), encoding="utf-8")
    return path


def task_section(task: Task, shown: int) -> str:
    """Shares, samples and losses of one training."""
    found = json.loads(task.scores.read_text(encoding="utf-8"))
    summary = dict(found["summary"])
    count = summary.pop("count")
    shares = html.table(summary.keys(), [[f"{share:.0%}" for share in summary.values()]])
    note = html.paragraph(
        f"Measured from pixels on {count} prompts whose combination of colour, shape and background "
        "was in no training caption. Green frames: right in all that the prompt says."
    )
    figures = [sample_figure(task.generated, entry) for entry in found["pictures"][:shown]]
    curve = html.line_chart(losses(task.metrics), x_label="training step", log_y=True)
    return html.section(task.name, note, shares, *figures, "<h3>Training loss</h3>", curve)


def sample_figure(folder: Path, entry: dict[str, Any]) -> str:
    wrong = [key for key, right in entry["right"].items() if not right]
    seen = ", ".join(f"{key} {entry['seen'].get(key, 'none')}" for key in wrong)
    caption = entry["prompt"] + (f" Seen: {seen}." if wrong else "")
    return html.figure(folder / entry["file"], caption, right=not wrong)


def losses(metrics: Path) -> dict[str, list[tuple[float, float]]]:
    """Every loss of a log as a smoothed curve: name -> (step, value)."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if name.startswith("loss") and value is not None:
                curve = curves.setdefault(name, [])
                past = curve[-1][1] if curve else value
                curve.append((row["step"], SMOOTHING * past + (1 - SMOOTHING) * value))
    return curves
