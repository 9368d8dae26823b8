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

from diffnext.config import CfgNode, get_cfg
from diffnext.distributed import launched

if TYPE_CHECKING:
    from diffnext.engine.coordinator import Coordinator
    from diffnext.engine.heartbeat import Heartbeat
    from diffnext.engine.trainer import Trainer

USER_ERRORS = (ValueError, FileNotFoundError)
# options of torchrun that are handed on, for runs on several nodes
RENDEZVOUS = (
    "nnodes",
    "node-rank",
    "master-addr",
    "master-port",
    "rdzv-backend",
    "rdzv-endpoint",
    "rdzv-id",
    "rdzv-conf",
)
# what a resumed run may begin anew, each by a flag that adds it to TRAIN.RESET
RESETS = {
    "lr": "begin the course of the learning rate anew",
    "optimizer": "begin with a new optimizer",
    "ema": "begin the averages anew, at the loaded weights",
    "data": "go on with other data, or another order of them",
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="diffnext train", description=__doc__)
    parser.add_argument("--cfg", required=True, help="YAML file of options; see docs/config.md")
    parser.add_argument("--exp-dir", default="", help="experiment folder; an existing one goes on")
    parser.add_argument(
        "--resume", metavar="PATH|auto|none", help="where to go on from; sets TRAIN.RESUME"
    )
    for name, what in RESETS.items():
        parser.add_argument(f"--reset-{name}", action="store_true", help=f"when resuming, {what}")
    parser.add_argument(
        "--distributed", action="store_true", help="start by torchrun, even a single process"
    )
    parser.add_argument("--deepspeed", default="", metavar="JSON", help="train with DeepSpeed")
    parser.add_argument("--host", default="", metavar="HOSTFILE", help="nodes for deepspeed")
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard curves too")
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="show the run in Weights & Biases; offline where there is no key or no server",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check data, weights and memory, print the plan, stop",
    )
    nodes = parser.add_argument_group("several nodes by torchrun, which explains these options")
    for name in RENDEZVOUS:
        nodes.add_argument(f"--{name}", default=None)
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="options that take precedence over the file"
    )
    args = parser.parse_args(argv)
    if args.host and not args.deepspeed:
        parser.error("--host is for --deepspeed; torchrun takes --nnodes and --rdzv-endpoint")
    if args.host and (args.distributed or rendezvous(args)):
        parser.error("--host is for deepspeed's launcher, --distributed and --nnodes for torchrun")
    return args


def read_config(args: argparse.Namespace) -> CfgNode:
    """The options of the run, frozen."""
    cfg = get_cfg()
    cfg.merge_from_file(args.cfg)
    cfg.merge_from_list(args.opts)
    if args.resume is not None:
        cfg.TRAIN.RESUME = args.resume
    given = [name for name in RESETS if getattr(args, f"reset_{name}")]
    cfg.TRAIN.RESET = list(dict.fromkeys([*cfg.TRAIN.RESET, *given]))
    cfg.freeze()
    return cfg


def rendezvous(args: argparse.Namespace) -> list[str]:
    """The options for torchrun that were given."""
    given = {name: getattr(args, name.replace("-", "_")) for name in RENDEZVOUS}
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def launch(args: argparse.Namespace, argv: Sequence[str], cfg: CfgNode) -> int:
    """Start the processes of the run, or do its work here."""
    from diffnext.engine.launchers import LAUNCHERS
    from diffnext.engine.launchers.base import Job

    torchrun = bool(args.distributed or rendezvous(args))
    if not rendezvous(args):
        try:
            launched.check_alone(cfg.NUM_GPUS)
        except USER_ERRORS as error:
            return fail(error)
    if args.deepspeed and not torchrun:
        name = "deepspeed"
    else:
        name = "torch" if torchrun or cfg.NUM_GPUS > 1 else "simple"
    job = Job(
        main=lambda: work(args, argv, cfg),
        command=[str(Path(__file__).resolve()), *argv],
        num_processes=max(cfg.NUM_GPUS, 1),
        hostfile=args.host,
        rendezvous=rendezvous(args),
    )
    return LAUNCHERS.get(name)(job)


def work(args: argparse.Namespace, argv: Sequence[str], cfg: CfgNode) -> int:
    """Train, as one process of the run, with signs of life for whoever watches."""
    from diffnext.engine.heartbeat import Heartbeat

    with Heartbeat(launched.rank()) as heart:
        code = train(args, argv, cfg, heart)
        heart.end(code)
    return code


def train(args: argparse.Namespace, argv: Sequence[str], cfg: CfgNode, heart: Heartbeat) -> int:
    """Join the processes of the run, and train while nobody else writes to its folder."""
    from diffnext.distributed import env as processes
    from diffnext.engine.coordinator import Coordinator
    from diffnext.engine.writer import only_writer

    try:
        launched.check_count(cfg.NUM_GPUS)
        env = processes.init(gpu_id=cfg.GPU_ID, timeout_s=group_timeout(cfg))
        name = cfg.SOLVER.SNAPSHOT_PREFIX or cfg.MODEL.TYPE
        coordinator = Coordinator(args.exp_dir, name=name, env=env)
        folder = only_writer(coordinator.folder, env)
    except USER_ERRORS as error:
        return fail(error)
    with folder:
        code = train_in(coordinator, args, argv, cfg, heart)
    if code == 0:
        processes.shutdown()
    return code


def train_in(
    coordinator: Coordinator,
    args: argparse.Namespace,
    argv: Sequence[str],
    cfg: CfgNode,
    heart: Heartbeat,
) -> int:
    """Prepare the run, train until its end or a request, say how to go on."""
    from diffnext.engine import build
    from diffnext.engine.hooks.guard import NonFiniteError

    env = coordinator.env
    try:
        start = build.find_start(cfg, coordinator.folder)
        done = start is not None and start.checkpoint.step >= cfg.SOLVER.MAX_STEPS
        plan = None if done else build.make_plan(cfg, world=env.world, deepspeed=args.deepspeed)
        if plan is not None and start is not None:
            build.check_start(cfg, plan, start, env)
    except USER_ERRORS as error:
        return fail(error)
    if plan is None:
        if env.is_main:
            folder = start.checkpoint.folder
            print(f"already finished: {folder} has all {cfg.SOLVER.MAX_STEPS} steps")
        return 0
    coordinator.start(str(cfg))
    options = {"start": start, "tensorboard": args.tensorboard, "wandb": args.wandb}
    trainer = build.build_trainer(cfg, plan, coordinator, **options)
    try:
        run(trainer, cfg, heart, logs=coordinator.logs)
    except NonFiniteError as error:
        return fail_together(error)
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
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # Python writes what they still hold at its exit
            os.dup2(nowhere, stream.fileno())


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


def dry_run(args: argparse.Namespace, cfg: CfgNode) -> int:
    """Check everything that can be checked without training, and print the plan."""
    import torch

    from diffnext.distributed.env import Env
    from diffnext.engine import build

    world = max(cfg.NUM_GPUS, 1)
    try:
        start = build.find_start(cfg, args.exp_dir)
        plan = build.make_plan(cfg, world=world, deepspeed=args.deepspeed)
        if start is not None:
            build.check_start(cfg, plan, start, Env(0, world, 0, torch.device("cpu")))
    except USER_ERRORS as error:
        return fail(error)
    print(cfg)
    print("\n".join(build.describe_plan(cfg, plan, world=world)))
    print(f"start      {'step 0' if start is None else start.checkpoint.folder}")
    return 0


def fail(error: Exception) -> int:
    """Say what the user can mend."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 2


def fail_together(error: Exception) -> int:
    """Say what has ended all processes; none goes before the last has finished its writing."""
    from diffnext.distributed import env as processes

    if processes.rank() == 0:
        print(f"error: {error}", file=sys.stderr, flush=True)
    processes.barrier()
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    try:
        cfg = read_config(args)
    except USER_ERRORS as error:
        return fail(error)
    if args.dry_run:
        return dry_run(args, cfg)
    if not rendezvous(args):
        launched.adopt_slurm()
    if launched.is_worker():
        return work(args, argv, cfg)
    return launch(args, argv, cfg)


if __name__ == "__main__":
    sys.exit(main())
