# SPDX-License-Identifier: Apache-2.0
"""Measures the loss on held-out records every now and then, and leaves the run as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from diffnext.data.held_out import HeldOut
from diffnext.distributed import env as processes
from diffnext.engine.checkpoint import Score
from diffnext.engine.ema import EMA
from diffnext.engine.hooks.base import PeriodicHook
from diffnext.pipelines.train_base import Grid
from diffnext.utils.logging import logger
from diffnext.utils.metrics import Row, finite
from diffnext.utils.mixing import mix
from diffnext.utils.seeding import Draws
from diffnext.utils.writers import Writer

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer

OWN, AVERAGE = "eval", "eval_ema"  # where the curves of the weights and of their average are


class EvaluationHook(PeriodicHook):
    """Evaluates before the first step, every `every` steps and after the last one.

    Noise, captions and masks follow from the seed and the record, so curves move by the weights
    alone; the random numbers, the modes and the weights of the run are left as they were.

    Args:
        data: the held-out records.
        writers: where rows go; empty on all processes but the first.
        role: whose network.
        every: steps between two evaluations.
        grid: levels at which the loss is measured.
        ema: averages of the weights; the first one is evaluated too. None if there is none.
        before: called before each row is written, to bring those of earlier steps to the disk.
    """

    def __init__(
        self,
        data: HeldOut,
        writers: Sequence[Writer],
        *,
        role: str,
        every: int,
        grid: Grid,
        ema: EMA | None,
        before: Callable[[], None],
    ) -> None:
        super().__init__(every)
        self.data = data
        self.writers = list(writers)
        self.role = role
        self.grid = grid
        self.ema = ema
        self.before = before
        self.metric = f"{OWN if ema is None else AVERAGE}/loss"  # by which checkpoints are compared
        self._latest: tuple[int, float | None] = (-1, None)  # step and value of the metric

    def score(self, step: int) -> Score | None:
        """The metric of a step, if it was evaluated; for the checkpoint of that step."""
        value = self._latest[1] if self._latest[0] == step else None
        if value is None:
            return None
        levels = (tuple(self.grid.timesteps), tuple(self.grid.mask_ratios))
        measured = f"{mix(self.data.digest, repr(levels)):016x}"
        return {"metric": self.metric, "mode": "min", "value": value, "measured": measured}

    def close(self) -> None:
        for writer in self.writers:
            writer.close()

    def run(self, trainer: Trainer) -> None:
        row: Row = {"step": trainer.step}
        row |= self._measure(trainer, OWN)
        if self.ema is not None:
            with self.ema.applied(trainer.backend, self.role):
                row |= self._measure(trainer, AVERAGE)
        self._latest = (trainer.step, row[self.metric])
        self.before()
        for writer in self.writers:
            writer.write([row])
        logger.info(f"eval step {trainer.step}  " + self._words(row))

    def _words(self, row: Row) -> str:
        """The mean losses, and those by timestep of what checkpoints are compared by."""
        levels = [f"{self.metric}_t{timestep:g}" for timestep in self.grid.timesteps]
        names = [f"{OWN}/loss", f"{AVERAGE}/loss", *levels]
        shown = {name: row[name] for name in names if name in row}
        values = {name: "nan" if v is None else f"{v:.4f}" for name, v in shown.items()}
        return "  ".join(f"{name.replace(self.metric + '_', '')} {values[name]}" for name in shown)

    @torch.no_grad()
    def _measure(self, trainer: Trainer, place: str) -> Row:
        """Mean losses over all records, the same on all processes. Collective."""
        env, net = trainer.backend.env, trainer.backend.learners[self.role].wrapped
        sums, count = [], torch.zeros((), device=env.device)
        with undisturbed(net, env.device):
            for batch, counts in self.data.batches(env.rank, env.world):
                keys = [(index,) for index in batch.index.tolist()]
                draws = Draws(trainer.seed, 0, keys, device=env.device, name="eval")
                batch = batch.to(env.device)
                with trainer.backend.autocast():
                    losses = trainer.pipe.evaluate(net, batch, draws=draws, grid=self.grid)
                sums.append(_sums(losses) * counts)
                count += len(batch) * counts
        total = processes.mean_over_ranks(torch.cat([torch.stack(sums).sum(0), count[None]]))
        means = (total[:-1] / total[-1]).tolist()
        return {f"{place}/{name}": finite(mean) for name, mean in zip(losses, means, strict=True)}


def _sums(losses: dict[str, Tensor]) -> Tensor:
    """Sum over the samples of each curve, (curves,)."""
    return torch.stack([loss.float().sum() for loss in losses.values()])


@contextmanager
def undisturbed(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Within, a network is in eval mode; its modes and the global random numbers come back."""
    modes = {module: module.training for module in net.modules()}
    devices = [device] if device.type == "cuda" else []
    net.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
