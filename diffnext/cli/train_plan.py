# SPDX-License-Identifier: Apache-2.0
"""From the options of `diffnext train` to its plan: all that is checked before anything is loaded."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from diffnext.cli.train_args import check_packages
from diffnext.config import CfgNode

if TYPE_CHECKING:
    from diffnext.engine.build import Given, Plan
    from diffnext.engine.checkpoint import Checkpoint, Start
    from diffnext.engine.coordinator import Coordinator

USER_ERRORS = (ValueError, OSError)


def look(args: argparse.Namespace, cfg: CfgNode) -> Given | None:
    """Compare model and data before anything is started; None of a finished run that has lost them.

    Raises:
        ValueError, OSError: what does not fit.
    """
    from diffnext.engine import build, checkpoint

    try:
        return build.compare_given(cfg)
    except USER_ERRORS:
        if finished(checkpoint.find(cfg.TRAIN.RESUME, args.exp_dir), cfg):
            return None
        raise


def prepare(
    coordinator: Coordinator, args: argparse.Namespace, cfg: CfgNode, given: Given | None
) -> tuple[Start | None, Plan | None]:
    """Where the run begins and what it will be; None if there is nothing left to do. Collective.

    Raises:
        ValueError, OSError: what does not fit on one of the processes, or on all.
    """
    from diffnext.distributed import env as processes
    from diffnext.engine import build

    env = coordinator.env
    start = build.find_start(cfg, coordinator.folder)
    if start is not None and finished(start.checkpoint, cfg):
        return start, None
    plan, refusal = None, None
    try:
        if env.is_main:  # which alone draws curves
            check_packages(args)
        given = given or build.compare_given(cfg)
        options = {"deepspeed": args.deepspeed, "resumed": start is not None, "given": given}
        plan = build.make_plan(cfg, world=env.world, **options)
        if start is not None:
            build.check_start(cfg, plan, start, env)
    except USER_ERRORS as error:
        refusal = error
    processes.agree(refusal)
    return start, plan


def finished(checkpoint: Checkpoint | None, cfg: CfgNode) -> str:
    """What to say of a run that has no step left after a checkpoint; "" of one that has."""
    if checkpoint is None or checkpoint.step < cfg.SOLVER.MAX_STEPS:
        return ""
    return (
        f"already finished: {checkpoint.folder} is of step {checkpoint.step}, and SOLVER.MAX_STEPS is "
        f"{cfg.SOLVER.MAX_STEPS}; raise it to go on"
    )


def dry_run(args: argparse.Namespace, cfg: CfgNode) -> int:
    """Check everything that can be checked without training, and print the plan."""
    import torch

    from diffnext.distributed.env import Env, take_device
    from diffnext.engine import build

    world = max(cfg.NUM_GPUS, 1)
    try:
        if world == 1:  # whose memory the plan is compared with
            take_device(cfg.GPU_ID)
        given = build.compare_given(cfg)
        start = build.find_start(cfg, args.exp_dir)
        options = {"deepspeed": args.deepspeed, "resumed": start is not None, "given": given}
        plan = build.make_plan(cfg, world=world, **options)
        if start is not None:
            build.check_start(cfg, plan, start, Env(0, world, 0, torch.device("cpu")))
    except USER_ERRORS as error:
        return fail(error)
    print(cfg)
    print("\n".join(build.describe_plan(cfg, plan, world=world, start=start)))
    checkpoint = None if start is None else start.checkpoint
    begin = "step 0" if checkpoint is None else checkpoint.folder
    print(f"start      {finished(checkpoint, cfg) or begin}")
    return 0


def fail(error: Exception) -> int:
    """Say what the user can mend."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 2
