# SPDX-License-Identifier: Apache-2.0
"""The command line of `diffnext train`, and the options of the run that it makes."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import diffnext
from diffnext.cli.common import refuse_url
from diffnext.config import CfgNode, get_cfg
from diffnext.utils.hashes import sha256_of

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
OF_A_MACHINE = ("NUM_GPUS", "GPU_ID", "TRAIN.NUM_THREADS")  # options that nodes may differ in
PACKAGES = ("tensorboard", "wandb", "deepspeed")  # each is what the flag of its name needs


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="diffnext train",
        description="Train a model: `diffnext train --cfg FILE [KEY VALUE ...]`.",
    )
    _add_run(parser)
    _add_processes(parser)
    _add_curves(parser)
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="options that take precedence over the file"
    )
    args = parser.parse_intermixed_args(argv)  # KEY VALUE may follow --resume, which `again` adds
    if args.host and not args.deepspeed:
        parser.error("--host is for --deepspeed; torchrun takes --nnodes and --rdzv-endpoint")
    if args.host and (args.distributed or rendezvous(args)):
        parser.error("--host is for deepspeed's launcher, --distributed and --nnodes for torchrun")
    refuse_url(parser, "--exp-dir", args.exp_dir)
    return args


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Which run, and where it begins."""
    parser.add_argument("--cfg", required=True, help="YAML file of options; see docs/config.md")
    parser.add_argument("--exp-dir", default="", help="experiment folder; an existing one goes on")
    parser.add_argument(
        "--resume", metavar="PATH|auto|none", help="where to go on from; sets TRAIN.RESUME"
    )
    for name, what in RESETS.items():
        parser.add_argument(f"--reset-{name}", action="store_true", help=f"when resuming, {what}")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check data, weights and memory, print the plan, stop",
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    """Who starts the processes."""
    parser.add_argument(
        "--distributed", action="store_true", help="start by torchrun, even a single process"
    )
    parser.add_argument("--deepspeed", default="", metavar="JSON", help="train with DeepSpeed")
    parser.add_argument("--host", default="", metavar="HOSTFILE", help="nodes for deepspeed")
    nodes = parser.add_argument_group("several nodes by torchrun, which explains these options")
    for name in RENDEZVOUS:
        nodes.add_argument(f"--{name}", default=None)


def _add_curves(parser: argparse.ArgumentParser) -> None:
    """Where the run is shown."""
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard curves too")
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="show the run in Weights & Biases; offline where there is no key or no server",
    )


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


def facts(args: argparse.Namespace, cfg: CfgNode) -> dict[str, str]:
    """What must be the same on all nodes of a run, by name: options, DeepSpeed's json, code."""
    import torch

    found = {
        name: str(reduce(getattr, name.split("."), cfg))
        for name in cfg.names()
        if name not in OF_A_MACHINE
    }
    if os.path.isfile(args.deepspeed):
        found[f"content of {args.deepspeed}"] = Path(args.deepspeed).read_text()
    found["version of torch"] = torch.__version__
    source = sorted(Path(diffnext.__file__).parent.rglob("*.py"))
    found["sha256 of the source of diffnext"] = sha256_of(source)
    return found


def rendezvous(args: argparse.Namespace) -> list[str]:
    """The options for torchrun that were given."""
    given = {name: getattr(args, name.replace("-", "_")) for name in RENDEZVOUS}
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def check_deepspeed(path: str) -> None:
    """Refuse a JSON that is not there before a launcher starts processes to find that out."""
    if path and not os.path.isfile(path):
        raise ValueError(f"--deepspeed {path}: there is no such file; configs/deepspeed has some")


def check_packages(args: argparse.Namespace) -> None:
    """Refuse flags whose package is not installed.

    Raises:
        ValueError: flag, package and remedy.
    """
    for name in PACKAGES:
        if getattr(args, name) and importlib.util.find_spec(name) is None:
            raise ValueError(
                f"--{name} needs the package {name}, which is not installed: "
                f"pip install diffnext[{name}]"
            )
