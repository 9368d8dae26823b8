# SPDX-License-Identifier: Apache-2.0
"""Compare two caches: which records only one has, how they were made, how far their latents drift apart.

    diffnext cache diff first second

Records are matched by medium, captions and view. Exit codes: 0 the same records, no value of their
means further apart than --tolerance; 1 otherwise; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from diffnext.cli.common import bar, guarded, parser

SHOWN = 5  # records that are named


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser("cache diff", __doc__)
    made.add_argument("a", metavar="A", help="folder of records, or its URL")
    made.add_argument("b", metavar="B", help="another")
    made.add_argument(
        "--sample",
        type=int,
        default=1000,
        metavar="N",
        help="matched records whose latents are compared, evenly spread (1000); -1: all",
    )
    made.add_argument("--tolerance", type=float, default=0.0, help="of a latent (0)")
    made.add_argument("--json", action="store_true", help="for programs")
    args = made.parse_args(argv)
    if args.sample < -1:
        made.error(f"--sample {args.sample}: -1 for all, or a number of records")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    return guarded("cache diff", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    from diffnext.data.tools.compare import compare

    sample = None if args.sample < 0 else args.sample
    found = compare(args.a, args.b, sample=sample, progress=bar)
    print(json.dumps(found, indent=2, ensure_ascii=False) if args.json else in_text(found, args))
    drift = found["drift"]
    odd = found["only_a"] or found["only_b"] or drift["other_shapes"] or drift["damaged"]
    return 1 if odd or drift["mean"]["max_abs"] > args.tolerance else 0


def in_text(found: Mapping[str, Any], args: argparse.Namespace) -> str:
    """What `compare` found, in lines."""
    ours, theirs = found["records"]
    lines = [f"A {args.a}: {ours} records", f"B {args.b}: {theirs} records"]
    lines.append(f"{found['matched']} matched by {found['matched_by']}")
    for name in ("a", "b"):
        rows = found[f"only_{name}"]
        shown = ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")
        lines.append(f"{len(rows)} only in {name.upper()}" + (f": {shown}" if rows else ""))
    if found["edited"]:
        lines.append(
            f"{found['edited']} of these are of one medium, which was edited or relabelled"
        )
    lines += [f"identity: {line}" for line in found["identity"]]
    return "\n".join([*lines, *_drift(found["drift"])])


def _drift(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{found['compared']} pairs compared, {found['equal']} with equal moments"]
    for key in ("other_shapes", "other_fields", "damaged"):
        if found[key]:
            lines.append(f"{found[key]} pairs: {key.replace('_', ' ')}")
    for name in ("mean", "logvar"):
        values = (f"{key} {value:.4g}" for key, value in found[name].items())
        lines.append(f"{name:<7} {', '.join(values)}")
    for side in ("a", "b"):
        for key, values in found.get(f"of_{side}", {}).items():
            numbers = " ".join(f"{value:8.4f}" for value in values)
            lines.append(f"{key} of {side.upper()} by channel: {numbers}")
    if found["worst"] and found["worst"][0]["rms"]:
        worst = found["worst"][0]
        lines.append(f"furthest apart: {worst['record_a']} of A and {worst['record_b']} of B")
    return lines
