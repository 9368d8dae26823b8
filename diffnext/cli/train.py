# SPDX-License-Identifier: Apache-2.0
"""Train a model: `diffnext train --cfg FILE [KEY VALUE ...]`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffnext.cli.train_args import (
    check_deepspeed,
    check_packages,
    facts,
    parse_args,
    read_config,
    rendezvous,
)
from diffnext.cli.train_plan import USER_ERRORS, dry_run, fail, finished, look, prepare
from diffnext.config import CfgNode
from diffnext.distributed import launched
from diffnext.utils import logging
from diffnext.utils.streams import lead_nowhere, open_streams

if TYPE_CHECKING:
    from diffnext.engine.build import Given
    from diffnext.engine.coordinator import Coordinator
    from diffnext.engine.heartbeat import Heartbeat
    from diffnext.engine.trainer import Trainer


def launch(args: argparse.Namespace, argv: Sequence[str], cfg: CfgNode) -> int:
    """Start the processes of the run, or do its work here; what cannot be trained starts nothing."""
    from diffnext.engine.launchers import LAUNCHERS
    from diffnext.engine.launchers.base import Job

    given = None
    if not (args.host or rendezvous(args)):  # a node may have other disks; all hear what it refuses
        logging.setup()
        try:
            given = look(args, cfg)
        except USER_ERRORS as error:
            return fail(error)
    torchrun = bool(args.distributed or rendezvous(args))
    if args.deepspeed and not torchrun:
        name = "deepspeed"
    else:
        name = "torch" if torchrun or cfg.NUM_GPUS > 1 else "simple"
    if given is not None and name != "simple":
        given.close()
    job = Job(
        main=lambda: work(args, argv, cfg, given),
        command=[str(Path(__file__).resolve()), *argv],
        num_processes=max(cfg.NUM_GPUS, 1),
        hostfile=args.host,
        rendezvous=rendezvous(args),
    )
    try:
        if name != "simple" and job.num_processes == 1 and not job.hostfile:
            show_gpu(cfg.GPU_ID)
        return LAUNCHERS.get(name)(job)
    except ValueError as error:
        if name == "simple":  # of the training itself
            raise
        return fail(error)


def show_gpu(index: int) -> None:
    """Let a process that will be started see one GPU alone; its launcher would give it the first one."""
    if index:
        import torch

        if torch.cuda.is_available():
            os.environ["CUDA_VISIBLE_DEVICES"] = launched.gpu_name(index)


def work(
    args: argparse.Namespace, argv: Sequence[str], cfg: CfgNode, given: Given | None = None
) -> int:
    """Train, as one process of the run, with signs of life for whoever watches.

    Args:
        given: model and data, where they have been compared.
    """
    from diffnext.engine.heartbeat import Heartbeat

    # shorter than the others wait for it: it is to be named before they give up
    limit_s = 0.8 * group_timeout(cfg) if cfg.SOLVER.HANG_TIMEOUT else 0.0
    with Heartbeat(launched.rank(), limit_s=limit_s) as heart:
        code = train(args, argv, cfg, heart, given)
        heart.end(code)
    return code


def train(
    args: argparse.Namespace,
    argv: Sequence[str],
    cfg: CfgNode,
    heart: Heartbeat,
    given: Given | None,
) -> int:
    """Join the processes of the run, and train while nobody else writes to its folder."""
    from diffnext.distributed import env as processes
    from diffnext.distributed.alike import check_alike
    from diffnext.engine.coordinator import Coordinator
    from diffnext.engine.launchers.peers import own_word, put_first
    from diffnext.engine.writer import only_writer

    try:
        env = processes.init(gpu_id=cfg.GPU_ID, timeout_s=group_timeout(cfg))
    except USER_ERRORS as error:
        return fail(error)
    name = cfg.SOLVER.SNAPSHOT_PREFIX or cfg.MODEL.TYPE
    coordinator = Coordinator(args.exp_dir, name=name, env=env)
    try:
        if env.world > 1:
            check_alike(facts(args, cfg))
            put_first(processes.broadcast(own_word()))
        folder = only_writer(coordinator.folder, env)
    except USER_ERRORS as error:
        return fail_together(error, code=2)
    with folder:
        code = train_in(coordinator, args, argv, cfg, heart, given)
    if code == 0:
        processes.shutdown()
    return code


def train_in(
    coordinator: Coordinator,
    args: argparse.Namespace,
    argv: Sequence[str],
    cfg: CfgNode,
    heart: Heartbeat,
    given: Given | None,
) -> int:
    """Prepare the run, train until its end or a request, say how to go on."""
    from diffnext.engine import build
    from diffnext.engine.checkpoint.manager import LastSaveError
    from diffnext.engine.hooks.guard import NonFiniteError

    env = coordinator.env
    try:
        start, plan = prepare(coordinator, args, cfg, given)
    except USER_ERRORS as error:
        return fail_together(error, code=2)
    if plan is None:
        if env.is_main:
            print(finished(start.checkpoint, cfg))
        return 0
    coordinator.start(str(cfg))
    options = {"start": start, "tensorboard": args.tensorboard, "wandb": args.wandb}
    trainer = build.build_trainer(cfg, plan, coordinator, **options)
    try:
        run(trainer, cfg, heart, logs=coordinator.logs)
    except (NonFiniteError, LastSaveError) as error:
        return fail_together(error, code=1)
    if env.is_main and trainer.step < trainer.max_steps:
        tell(f"ended at step {trainer.step} of {trainer.max_steps}: {trainer.stop.agreed}")
        tell(f"to go on: {again(args, argv, cfg, coordinator.folder)}")
    return 0


def run(trainer: Trainer, cfg: CfgNode, heart: Heartbeat, *, logs: Path) -> None:
    """Train, watched, until all is done or a signal asks for an end."""
    from diffnext.engine.hooks.heartbeat import HeartbeatHook
    from diffnext.engine.signals import ECHO_S, on_signals

    def ask(name: str) -> None:
        heart.stopping()
        trainer.request_stop(name)

    trainer.hooks.insert(0, HeartbeatHook(heart, timeout_s=cfg.SOLVER.HANG_TIMEOUT, logs=logs))
    with on_signals(ask, echo_s=ECHO_S if heart.folder else 0.0):
        trainer.train()


def tell(text: str) -> None:
    """Print what is good to know at an end; no failure where nobody reads it any more.

    Ctrl-C ends the `tee` of `train.py 2>&1 | tee log` as well, and first.
    """
    try:
        print(text, flush=True)
        sys.stderr.flush()
    except OSError:
        lead_nowhere(sys.stdout, sys.stderr)


def group_timeout(cfg: CfgNode) -> float:
    """How long a process waits for another: longer than until somebody says which one stands still."""
    return max(1800.0, 5 * cfg.SOLVER.HANG_TIMEOUT)


def again(args: argparse.Namespace, argv: Sequence[str], cfg: CfgNode, folder: Path) -> str:
    """The command that goes on with a run; what was begun anew is not begun anew again."""
    where = [] if args.exp_dir else ["--exp-dir", str(folder)]
    words = [word for word in argv if not word.startswith("--reset-")]
    if cfg.TRAIN.RESUME == "none":
        words += ["--resume", "auto"]
    installed = Path(sys.argv[0]).stem == "diffnext"
    program = ["diffnext", "train"] if installed else ["python", sys.argv[0]]
    return shlex.join([*program, *where, *words])


def fail_together(error: Exception, *, code: int) -> int:
    """Say once what has ended all processes; none goes before the last has finished its writing."""
    from diffnext.distributed import env as processes

    if processes.rank() == 0:
        fail(error)
    processes.barrier()
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    open_streams()
    try:
        return dispatch(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # outside of `run`, which makes a request of it
        if launched.local_rank() == 0:
            print("interrupted", file=sys.stderr)
        return 130


def dispatch(argv: Sequence[str]) -> int:
    """Check what is asked for, and do it or start the processes that do."""
    args = parse_args(argv)
    try:
        if not rendezvous(args):
            launched.adopt_slurm()
        cfg = read_config(args)
        if launched.is_worker():
            launched.check_count(cfg.NUM_GPUS)
        else:
            check_packages(args)
            check_deepspeed(args.deepspeed)
        if not rendezvous(args):
            launched.check_alone(cfg.NUM_GPUS)
    except USER_ERRORS as error:  # the same for all processes of a node
        return fail(error) if launched.local_rank() == 0 else 2
    if args.dry_run:
        return dry_run(args, cfg)
    if launched.is_worker():
        return work(args, argv, cfg)
    return launch(args, argv, cfg)


if __name__ == "__main__":
    sys.exit(main())
