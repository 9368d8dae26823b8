#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Run one step of a finished or broken run again, and print the loss of each sample.

python tools/replay_step.py --run runs/t2i --step 1234
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffnext.data.origins import Origins
    from diffnext.engine.build.replay import Replay
    from diffnext.engine.hooks.record import SampleResult


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="experiment folder")
    parser.add_argument("--step", required=True, type=int, help="as the log counts it, from 1")
    parser.add_argument(
        "--weights",
        default="nearest",
        help="nearest (the last checkpoint before the step), a checkpoint, or a network's folder",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="train from the nearest checkpoint to the step first, in memory",
    )
    args = parser.parse_args(argv)
    if args.exact and args.weights != "nearest":
        parser.error("--exact trains from the nearest checkpoint; leave --weights out")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from diffnext.utils import logging

    logging.setup()
    try:
        replay(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def replay(args: argparse.Namespace) -> None:
    """Build the run as it was before the step, take the step, print what it saw."""
    from diffnext.config import get_cfg
    from diffnext.engine.build.replay import build_replay
    from diffnext.engine.hooks.record import RecordHook

    cfg = get_cfg()
    cfg.merge_from_file(str(Path(args.run, "config.yaml")))
    found = build_replay(cfg, args.run, args.step, weights=args.weights, exact=args.exact)
    print(describe_weights(args, found))
    hook = RecordHook()
    found.trainer.hooks.append(hook)
    values = found.trainer.train_step().values
    print(f"{'loss':>10} {'noise':>7}  sample")
    for sample in hook.samples:
        print(describe_sample(sample, found.origins))
    print_totals(args, {name: float(value) for name, value in values.items()})


def describe_weights(args: argparse.Namespace, found: Replay) -> str:
    """Which weights the step meets."""
    if args.weights != "nearest":
        return f"weights of {args.weights}"
    if found.behind:
        met = args.step - 1 - found.behind
        return f"weights of step {met}, {found.behind} steps short of those it met (see --exact)"
    return f"weights of step {args.step - 1}, those it met"


def describe_sample(sample: SampleResult, origins: Origins) -> str:
    """Loss, mean noise, record, file and caption."""
    loss = "-" if sample.loss is None else f"{sample.loss:.6f}"
    noise = "-" if sample.noise is None else f"{sample.noise.mean().item():.4f}"
    parts = [f"{loss:>10} {noise:>7} ", origins.describe(sample.index), f"epoch {sample.epoch}"]
    source = origins.source(sample.index)
    if source:
        parts.append(source)
    if isinstance(sample.prompt, str):
        parts.append(repr(sample.prompt[:80]))
    elif sample.prompt is not None:
        parts.append(f"embedding of {len(sample.prompt)} tokens")
    if sample.label is not None:
        parts.append(f"class {sample.label}")
    return "  ".join(parts)


def print_totals(args: argparse.Namespace, values: dict[str, float]) -> None:
    """The numbers of the step, next to those of the log."""
    from diffnext.utils.metrics import read_rows

    rows = {row["step"]: row for row in read_rows(Path(args.run, "logs/metrics.jsonl"))}
    logged = rows.get(args.step, {})
    for name, value in values.items():
        told = f"  in the log {logged[name]!r}" if name in logged else ""
        print(f"{name} {value!r}{told}")


if __name__ == "__main__":
    sys.exit(main())
