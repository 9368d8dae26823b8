# SPDX-License-Identifier: Apache-2.0
"""A whole toy run, put together by hand: what the tests of the engine start from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffnext.distributed.env import Env
from diffnext.engine.backends import BACKENDS
from diffnext.engine.checkpoint import CheckpointManager, Content, find_start
from diffnext.engine.ema import EMA
from diffnext.engine.hooks.average import EMAHook
from diffnext.engine.hooks.base import Hook
from diffnext.engine.hooks.evaluate import EvaluationHook
from diffnext.engine.hooks.log import LogHook
from diffnext.engine.hooks.snapshot import SnapshotHook
from diffnext.engine.lr_scheduler import make_schedule
from diffnext.engine.optim import optimizer_factory
from diffnext.engine.trainer import Trainer
from diffnext.methods.finetune import Finetune
from diffnext.pipelines.train_base import Grid
from diffnext.utils.metrics import Metrics
from diffnext.utils.writers import JsonlWriter
from tests.engine.toy import ToyHeldOut, ToyLoader, ToyPipeline, toy_net


class Interrupted(Exception):
    """The run was broken off."""


class Interruption(Hook):
    """Breaks a run off after a step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        if trainer.step == self.step:
            raise Interrupted


ALONE = Env(0, 1, 0, torch.device("cpu"))


def toy_run(
    folder,
    *,
    max_steps: int = 8,
    snapshot_every: int = 4,
    env: Env = ALONE,
    backend: str = "single",
    batch_size: int = 4,
    accum: int = 1,
    precision: str = "float32",
    max_norm: float = 1.0,
    optimizer: str = "adamw",
    decays: Sequence[float] = (0.9,),
    keep: int = 0,
    keep_every: int = 0,
    background: bool = True,
    bad=(),
    resume: str = "auto",
    resets=(),
    options=None,
    evaluate: int = 0,
    stop_at: int | None = None,
) -> Trainer:
    """A trainer with logging, averaging and saving in `folder`, resumed if there is something.

    Args:
        evaluate: steps between two evaluations; 0 for none.
        stop_at: raise Interrupted after this step.
    """
    pipe = ToyPipeline(toy_net())
    spread = BACKENDS.get(backend)(env, precision=precision, **(options or {}))
    make = optimizer_factory(optimizer, lr=1e-2, weight_decay=0.02, beta2=0.95)
    method = Finetune(pipe, {"student": spread.add("student", pipe.configure(), make)})
    loader = ToyLoader(batch_size, rank=env.rank, world=env.world, accum=accum, bad=bad)
    schedule = make_schedule("cosine_decay", base_lr=1e-2, max_steps=max_steps, warm_up_steps=2)
    ema = EMA(spread.weights("student", learning=True), decays=decays, device="cpu")
    start = find_start(resume, folder, resets=resets)
    manager = CheckpointManager(
        folder,
        prefix="toy",
        content=Content(module="transformer", loader=loader, ema=ema),
        about={},
        keep=keep,
        keep_every=keep_every,
        background=background,
        start=start,
    )
    trainer = Trainer(
        pipe=pipe,
        method=method,
        backend=spread,
        batches=loader,
        schedules={"student": schedule},
        max_steps=max_steps,
        seed=3,
        accum_steps=accum,
        max_norm=max_norm,
    )
    if start is not None:
        manager.load(trainer)
    log = LogHook(
        _rows(folder, "metrics", trainer),
        display=3,
        samples_per_step=batch_size * accum * env.world,
    )
    trainer.hooks = [log, EMAHook(ema, role="student", every=3)]
    saving = {"every": snapshot_every, "before": log.flush}
    if evaluate:
        looking = _evaluation(folder, trainer, ema, every=evaluate)
        trainer.hooks.append(looking)
        saving["score"] = looking.score
    trainer.hooks += [SnapshotHook(manager, **saving), Interruption(stop_at)]
    return trainer


def _rows(folder, name: str, trainer: Trainer) -> list[JsonlWriter]:
    """The first process writes rows, as of a run that goes on from the trainer's step."""
    if not trainer.backend.env.is_main:
        return []
    return [JsonlWriter(folder / f"{name}.jsonl", step=trainer.step)]


def _evaluation(folder, trainer: Trainer, ema: EMA, *, every: int) -> EvaluationHook:
    """Evaluates on the toy's held-out records."""
    return EvaluationHook(
        ToyHeldOut(),
        _rows(folder, "eval", trainer),
        role="student",
        every=every,
        grid=Grid(timesteps=(), mask_ratios=()),
        ema=ema,
        before=trainer.hooks[0].flush,
    )
