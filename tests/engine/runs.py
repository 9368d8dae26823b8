# SPDX-License-Identifier: Apache-2.0
"""A whole toy run, put together by hand: what the tests of the engine start from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from diffnext.methods.base import TrainingMethod
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


@dataclass(frozen=True, kw_only=True)
class ToyOptions:
    """What a toy run is told."""

    max_steps: int = 8
    snapshot_every: int = 4
    env: Env = ALONE
    method: type[TrainingMethod] = Finetune
    backend: str = "single"
    options: Mapping[str, Any] | None = None  # of the backend
    batch_size: int = 4
    accum: int = 1
    precision: str = "float32"
    max_norm: float = 1.0
    optimizer: str = "adamw"
    decays: Sequence[float] = (0.9,)
    keep: int = 0
    keep_every: int = 0
    background: bool = True
    bad: Collection[int] = ()  # samples whose values are all NaN
    resume: str = "auto"
    resets: Collection[str] = ()
    evaluate: int = 0  # steps between two evaluations; 0 for none
    stop_at: int | None = None  # raise Interrupted after this step


def toy_run(folder, **options) -> Trainer:
    """A trainer with logging, averaging and saving in `folder`, resumed if there is something."""
    told = ToyOptions(**options)
    trainer = _trainer(told)
    weights = trainer.backend.weights("student", learning=True)
    ema = EMA(weights, decays=told.decays, device="cpu")
    start = find_start(told.resume, folder, resets=told.resets)
    manager = CheckpointManager(
        folder,
        prefix="toy",
        content=Content(module="transformer", loader=trainer.batches, ema=ema),
        about={},
        keep=told.keep,
        keep_every=told.keep_every,
        background=told.background,
        start=start,
    )
    if start is not None:
        manager.load(trainer)
    batch = told.batch_size * told.accum * told.env.world
    log = LogHook(_rows(folder, "metrics", trainer), display=3, samples_per_step=batch)
    trainer.hooks = [log, EMAHook(ema, role="student", every=3)]
    score = None
    if told.evaluate:
        evaluation = _evaluation(folder, trainer, ema, every=told.evaluate)
        trainer.hooks.append(evaluation)
        score = evaluation.score
    saving = SnapshotHook(manager, every=told.snapshot_every, before=log.flush, score=score)
    trainer.hooks += [saving, Interruption(told.stop_at)]
    return trainer


def _trainer(told: ToyOptions) -> Trainer:
    """The loop at step 0, without hooks."""
    env, roles = told.env, told.method.roles
    nets = {role.name: toy_net(seed) for seed, role in enumerate(roles)}
    pipe = ToyPipeline(nets["student"])
    pipe.configure()
    backend = BACKENDS.get(told.backend)(env, precision=told.precision, **(told.options or {}))
    make = optimizer_factory(told.optimizer, lr=1e-2, weight_decay=0.02, beta2=0.95)
    schedule = make_schedule(
        "cosine_decay", base_lr=1e-2, max_steps=told.max_steps, warm_up_steps=2
    )
    wrapped = {
        role.name: backend.add(role.name, nets[role.name], make if role.learns else None)
        for role in roles
    }
    return Trainer(
        pipe=pipe,
        method=told.method(pipe, wrapped),
        backend=backend,
        batches=ToyLoader(
            told.batch_size, rank=env.rank, world=env.world, accum=told.accum, bad=told.bad
        ),
        schedules={role.name: schedule for role in roles if role.learns},
        max_steps=told.max_steps,
        seed=3,
        accum_steps=told.accum,
        max_norm=told.max_norm,
    )


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
