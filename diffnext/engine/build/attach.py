# SPDX-License-Identifier: Apache-2.0
"""What hangs on the loop of a run: where it goes on from, and its hooks."""

from __future__ import annotations

from pathlib import Path

from diffnext.data.loader import Loader
from diffnext.engine.build.config import Config
from diffnext.engine.build.guards import make_guards
from diffnext.engine.build.objects import make_ema
from diffnext.engine.build.plan import Plan
from diffnext.engine.build.start import data_identity, data_records
from diffnext.engine.build.watch import make_evaluation, make_samples
from diffnext.engine.checkpoint import CheckpointManager, Content, Start
from diffnext.engine.coordinator import Coordinator, describe
from diffnext.engine.hooks.average import EMAHook
from diffnext.engine.hooks.log import LogHook
from diffnext.engine.hooks.moved import MovedHook
from diffnext.engine.hooks.snapshot import SnapshotHook
from diffnext.engine.trainer import Trainer


def attach(
    cfg: Config,
    coordinator: Coordinator,
    trainer: Trainer,
    loader: Loader,
    *,
    start: Start | None,
    plan: Plan,
    tensorboard: bool,
    wandb: bool,
) -> None:
    """Resume the run if there is something to resume, and give it its hooks.

    Args:
        start: where it goes on from.
    """
    student = trainer.method.learning[0]
    ema = make_ema(cfg, trainer.backend, student, coordinator.env)
    content = Content(module=cfg.MODEL.TYPE, loader=loader, ema=ema)
    manager = make_manager(cfg, coordinator.folder, content, start=start, plan=plan)
    if start is not None:
        manager.load(trainer)
    curves = coordinator.curves(step=trainer.step, tensorboard=tensorboard, wandb=wandb)
    writers = coordinator.rows("metrics.jsonl", step=trainer.step) + curves
    batch = cfg.TRAIN.BATCH_SIZE * cfg.SOLVER.ACCUM_STEPS * coordinator.env.world
    log = LogHook(writers, display=cfg.SOLVER.DISPLAY, samples_per_step=batch)

    moved = MovedHook(every=cfg.SOLVER.DISPLAY)
    trainer.hooks += [moved, log, *make_guards(cfg, coordinator, loader)]
    if ema is not None:
        trainer.hooks.append(EMAHook(ema, role=student, every=cfg.SOLVER.EMA_EVERY))
    score = None
    if plan.held_out is not None:
        writers = coordinator.rows("eval.jsonl", step=trainer.step) + curves
        options = {"role": student, "ema": ema, "writers": writers, "before": log.flush}
        evaluation = make_evaluation(cfg, plan, **options)
        trainer.hooks.append(evaluation)
        score = evaluation.score
    if cfg.SAMPLE.EVERY:
        samples = make_samples(cfg, coordinator, role=student, ema=ema, curves=curves)
        trainer.hooks.append(samples)
    saving = {"every": cfg.SOLVER.SNAPSHOT_EVERY, "before": log.flush, "score": score}
    trainer.hooks.append(SnapshotHook(manager, **saving))


def make_manager(
    cfg: Config, folder: Path, content: Content, *, start: Start | None, plan: Plan
) -> CheckpointManager:
    """What writes the checkpoints of a run, with what they say of its options and data."""
    about = {"config": str(cfg), "data": data_identity(plan), "records": data_records(plan)}
    return CheckpointManager(
        folder,
        prefix=cfg.SOLVER.SNAPSHOT_PREFIX or cfg.MODEL.TYPE,
        content=content,
        about=about | describe(),
        keep=cfg.SOLVER.SNAPSHOT_KEEP,
        keep_every=cfg.SOLVER.SNAPSHOT_KEEP_EVERY,
        background=cfg.SOLVER.SNAPSHOT_ASYNC,
        start=start,
    )
