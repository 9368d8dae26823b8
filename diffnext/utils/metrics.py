# SPDX-License-Identifier: Apache-2.0
"""Numbers of a run: kept on the device while a step computes, rows of a file afterwards."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffnext.utils.files import write_text

Row = dict[str, float | int | None]  # one step, by name; None where a number was not finite


class Metrics:
    """Weighted sums of scalars by name. Tensors stay where they are: adding asks nothing of the host."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor | float] = {}

    def add(self, values: Mapping[str, Tensor | float], *, weight: float = 1.0) -> None:
        """Add `weight` times each value to the sum of its name."""
        for name, value in values.items():
            if isinstance(value, Tensor):
                value = value.detach().float()
            term = value * weight
            self.values[name] = self.values[name] + term if name in self.values else term


def average(parts: Sequence[Metrics]) -> Metrics:
    """The mean of each number over those parts that have it."""
    counts = Counter(name for part in parts for name in part.values)
    total = Metrics()
    for part in parts:
        for name, value in part.values.items():
            total.add({name: value}, weight=1 / counts[name])
    return total


class StepTimer:
    """Durations of steps. On a GPU they are read from its own clock, after the fact.

    Args:
        device: what computes the steps.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list[tuple] = []

    def start(self) -> None:
        self._begin = self._mark()

    def stop(self) -> None:
        self._marks.append((self._begin, self._mark()))

    def take(self) -> list[float]:
        """Seconds of each step since the last call; waits for the device."""
        marks, self._marks = self._marks, []
        if self.device.type != "cuda":
            return [end - begin for begin, end in marks]
        torch.cuda.synchronize(self.device)
        return [begin.elapsed_time(end) / 1000 for begin, end in marks]

    def _mark(self) -> torch.cuda.Event | float:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cut_rows(path: str | Path, *, step: int) -> None:
    """Drop the rows of a metrics file after `step`, and its damaged end; make it if it is not there.

    Raises:
        ValueError: a damaged line before the end.
    """
    kept = [json.dumps(row) for row in read_rows(path) if row["step"] <= step]
    write_text(path, "".join(line + "\n" for line in kept))


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a metrics file, in order; [] if there is none.

    A crash may leave the end of the file unfinished or damaged: lines after the last whole row are
    left out.

    Raises:
        ValueError: a damaged line with whole ones after it, by its number.
    """
    if not os.path.exists(path):
        return []
    with open(path, "rb") as file:
        rows = [_parse_row(line) for line in file]
    while rows and rows[-1] is None:
        rows.pop()
    if None in rows:
        raise ValueError(
            f"{path}:{rows.index(None) + 1} is damaged, wanted a JSON object with a step; "
            "remove that line, or the whole file, and start again"
        )
    return rows


def _parse_row(line: bytes) -> Row | None:
    """The row in a line; None if it is unfinished or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(row, dict) and isinstance(row.get("step"), int)
    return row if whole else None


def finite(value: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def mean(rows: Sequence[Row], name: str) -> float:
    """Average of one column over the rows where it is finite; nan if there is none."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else math.nan
