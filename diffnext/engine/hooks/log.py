# SPDX-License-Identifier: Apache-2.0
"""Rows of numbers, one a step, read from the device only every now and then."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from diffnext.distributed import env as processes
from diffnext.engine.hooks.base import Hook
from diffnext.utils.logging import logger
from diffnext.utils.metrics import Metrics, Row, finite, mean, memory_bytes
from diffnext.utils.writers import Writer

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer

_DATA = ("data_wait", "data_read", "data_decode", "data_transfer")  # seconds
_RATES = (
    *("step", "lr", "grad_norm", "step_time", "samples_per_s", *_DATA, "memory", "skipped"),
    "damaged",
)


class LogHook(Hook):
    """Averages losses over the processes, writes a row a step and prints a line every `display` steps.

    Args:
        writers: where rows go; empty on all processes but the first.
        display: steps between two lines on the console.
        samples_per_step: samples of a step, over all processes.
    """

    def __init__(self, writers: Sequence[Writer], *, display: int, samples_per_step: int) -> None:
        self.writers = list(writers)
        self.display = max(display, 1)
        self.samples_per_step = samples_per_step
        self._steps: list[tuple[int, dict[str, Tensor | float], Row]] = []
        self._times: list[tuple[float, float]] = []  # seconds of these, and of transfers in them
        self._waits = WaitSplit()
        self._unprinted: list[Row] = []
        self._bar: tqdm | None = None
        self._open = ExitStack()
        self._trainer: Trainer | None = None

    def before_train(self, trainer: Trainer) -> None:
        self._trainer = trainer
        if trainer.backend.env.is_main and sys.stderr.isatty():
            self._bar = tqdm(total=trainer.max_steps, initial=trainer.step, unit="step")
            self._open.enter_context(closing(self._bar))
            self._open.enter_context(logging_redirect_tqdm([logger]))  # lines go above the bar

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        self._steps.append((trainer.step, metrics.values, self._waits.split(trainer)))
        if self._bar is not None:
            self._bar.update(1)
        if trainer.step % self.display == 0 or trainer.ending:
            self.flush()
            self._print()

    def flush(self) -> None:
        """Read what the device holds and write the rows. All processes call it together."""
        if self._steps:
            self._write(processes.mean_over_ranks)

    def _write(self, average: Callable[[Tensor], Tensor]) -> None:
        """Make rows of the steps since the last time, and forget the steps once that has worked."""
        count, transfers = self._trainer.accum_steps, self._trainer.transfers.take()
        for number, seconds in enumerate(self._trainer.timer.take()):
            self._times.append((seconds, sum(transfers[number * count : (number + 1) * count])))
        rows = self._rows(average)
        self._steps, self._times = [], []
        for writer in self.writers:
            writer.write(rows)
        self._unprinted.extend(rows)

    def close(self) -> None:
        """Write what a run that breaks off has left: this process's numbers, the others may be gone."""
        if self._steps and self.writers:
            try:
                self._write(lambda values: values)
            except Exception as error:  # what ended the run is the news
                logger.warning(f"the rows of the last {len(self._steps)} steps are lost: {error}")
        for writer in self.writers:
            writer.close()
        self._open.close()

    def _rows(self, average: Callable[[Tensor], Tensor]) -> list[Row]:
        """One row a step; its tensors are averaged over the processes in one message."""
        flat = [v for _, values, _ in self._steps for v in values.values() if isinstance(v, Tensor)]
        # what is offloaded is measured on the host
        flat = [value.to(self._trainer.backend.env.device) for value in flat]
        averages = iter(average(torch.stack(flat)).tolist())
        memory = memory_bytes(self._trainer.backend.env.device)
        damaged = getattr(self._trainer.batches, "damaged", 0)
        rows = []
        for (step, values, waits), (seconds, transfer) in zip(
            self._steps, self._times, strict=True
        ):
            row: Row = {"step": step}
            for name, value in values.items():
                row[name] = finite(next(averages) if isinstance(value, Tensor) else value)
            row["step_time"] = seconds
            row["samples_per_s"] = self.samples_per_step / max(seconds, 1e-9)
            row |= waits | {"data_transfer": transfer}
            row["memory"] = memory
            if damaged:
                row["damaged"] = damaged
            rows.append(row)
        return rows

    def _print(self) -> None:
        """One line about the steps since the last one."""
        rows, self._unprinted = self._unprinted, []
        last, seconds = rows[-1]["step"], mean(rows, "step_time")
        left = datetime.timedelta(seconds=round(seconds * (self._trainer.max_steps - last)))
        names = dict.fromkeys(name for row in rows for name in row)  # a role may rest in some steps
        losses = [name for name in names if name not in _RATES]
        parts = [f"{name} {mean(rows, name):.4f}" for name in losses]
        parts.append(f"lr {mean([row for row in rows if 'lr' in row][-1:], 'lr'):.2e}")
        parts.append(f"grad_norm {mean(rows, 'grad_norm'):.3f}")
        parts.append(f"{seconds:.3f} s/step")
        parts.append(f"{self.samples_per_step / max(seconds, 1e-9):.1f} samples/s")
        parts.append(_data_share(rows, seconds))
        if "damaged" in rows[-1]:
            parts.append(f"{rows[-1]['damaged']} damaged")
        parts.append(f"mem {rows[-1]['memory'] / 2**30:.2f} GiB")
        parts.append(f"eta {left}")
        logger.info(f"step {last}/{self._trainer.max_steps}  " + "  ".join(parts))


class WaitSplit:
    """Divides the time that a step waited for data between reading and decoding.

    Readers ahead of the loop do both in other threads; a wait is divided as what they spent on each
    while the step went on.
    """

    def __init__(self) -> None:
        self._before = (0.0, 0.0)

    def split(self, trainer: Trainer) -> Row:
        """Seconds of the step that has just ended."""
        times = getattr(trainer.batches, "times", None)
        now = (0.0, 0.0) if times is None else (times.read_s, times.decode_s)
        read, decode = (b - a for a, b in zip(self._before, now, strict=True))
        self._before = now
        wait = trainer.data_wait_s
        decoded = wait * decode / (read + decode) if decode > 0 else 0.0
        return {"data_wait": wait, "data_read": wait - decoded, "data_decode": decoded}


def _data_share(rows: Sequence[Row], seconds: float) -> str:
    """The part of a step's time that data took, and by what if it is worth speaking of."""
    read, decode, copy = (100 * mean(rows, name) / max(seconds, 1e-9) for name in _DATA[1:])
    total = f"data {read + decode + copy:.1f} %"
    if read + decode + copy < 1:
        return total
    return f"{total} (read {read:.1f}, decode {decode:.1f}, transfer {copy:.1f})"
