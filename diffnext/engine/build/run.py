# SPDX-License-Identifier: Apache-2.0
"""From the options of a run to its trainer."""

from __future__ import annotations

import torch

from diffnext.distributed.env import Env
from diffnext.engine.build.attach import attach
from diffnext.engine.build.config import Config
from diffnext.engine.build.data import make_loader
from diffnext.engine.build.describe import describe_plan
from diffnext.engine.build.objects import make_backend, make_method, make_pipeline
from diffnext.engine.build.options import schedule_of
from diffnext.engine.build.plan import Plan
from diffnext.engine.checkpoint import Start
from diffnext.engine.coordinator import Coordinator
from diffnext.engine.trainer import Trainer
from diffnext.utils.logging import logger


def build_trainer(
    cfg: Config,
    plan: Plan,
    coordinator: Coordinator,
    *,
    start: Start | None = None,
    tensorboard: bool = False,
    wandb: bool = False,
) -> Trainer:
    """Make everything that a run consists of, put back to where it was if it is resumed.

    Args:
        cfg: frozen options.
        plan: made of them.
        coordinator: of the experiment folder.
        start: where the run goes on from; None for step 0.
        tensorboard: write curves and samples for TensorBoard as well.
        wandb: and for Weights & Biases.
    """
    env = coordinator.env
    for line in describe_plan(cfg, plan, world=env.world, start=start):
        logger.info(line)
    trainer = make_trainer(cfg, plan, env, begin=start.begin if start else 0)
    attach(
        cfg,
        coordinator,
        trainer,
        trainer.batches,
        start=start,
        plan=plan,
        tensorboard=tensorboard,
        wandb=wandb,
    )
    return trainer


def make_trainer(cfg: Config, plan: Plan, env: Env, *, begin: int) -> Trainer:
    """The loop with all that it works on, at step 0 and without hooks.

    Args:
        begin: step at which the course of the learning rate begins.
    """
    round_products(cfg.TRAIN.TF32)
    pipe = make_pipeline(cfg, plan).to(env.device)
    backend = make_backend(cfg, plan, env)
    method = make_method(cfg, pipe, backend, plan.optimizer)
    schedule = schedule_of(cfg, begin=begin) if begin else plan.schedule
    return Trainer(
        pipe=pipe,
        method=method,
        backend=backend,
        batches=make_loader(cfg, plan.data, env),
        schedules={role.name: schedule for role in method.roles if role.learns},
        max_steps=cfg.SOLVER.MAX_STEPS,
        seed=cfg.RNG_SEED,
        accum_steps=cfg.SOLVER.ACCUM_STEPS,
        max_norm=cfg.SOLVER.CLIP_GRAD,
    )


def round_products(tf32: bool) -> None:
    """Whether a GPU rounds the factors of float32 products; of convolutions torch itself would."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
