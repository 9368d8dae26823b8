# SPDX-License-Identifier: Apache-2.0
"""Compare two caches: which records only one has, how they were made, how far their latents drift apart.

    diffnext cache diff first second

Records are matched by medium, captions and view. Exit codes: 0 the same records, no value of their
moments further apart than --tolerance; 1 otherwise; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from diffnext.cli.common import bar, guarded, make_parser

SHOWN = 5  # records that are named
ODD = {
    "other_shapes": "of different shapes",
    "other_fields": "with other captions or other fields",
    "not_finite": "with NaN or infinite moments in one, and others in the other",
    "damaged": "with a damaged record, which `diffnext cache verify` names",
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("cache diff", __doc__)
    parser.add_argument("a", metavar="A", help="folder of records, or its URL")
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument(
        "--sample",
        type=int,
        default=1000,
        metavar="N",
        help="matched records whose latents are compared, evenly spread (1000); -1: all",
    )
    parser.add_argument("--tolerance", type=float, default=0.0, help="of a latent (0)")
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.parse_args(argv)
    if args.sample < -1:
        parser.error(f"--sample {args.sample}: -1 for all, or a number of records")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    return guarded("cache diff", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    from diffnext.data.tools.compare import compare

    sample = None if args.sample < 0 else args.sample
    found = compare(args.a, args.b, sample=sample, progress=bar)
    print(json.dumps(found, indent=2, ensure_ascii=False) if args.json else in_text(found, args))
    reasons = differing(found, args.tolerance)
    if not args.json:
        print(f"different: {'; '.join(reasons)}" if reasons else "the same")
    return 1 if reasons else 0


def differing(found: Mapping[str, Any], tolerance: float) -> list[str]:
    """Why two caches do not count as the same."""
    drift = found["drift"]
    only = len(found["only_a"]) + len(found["only_b"])
    reasons = [f"{only} records that only one has"] if only else []
    reasons += [f"{drift[key]} pairs {words}" for key, words in ODD.items() if drift[key]]
    largest = max(drift[name]["max_abs"] for name in ("mean", "logvar"))
    if largest > tolerance:
        reasons.append(f"moments up to {largest:.4g} apart, --tolerance is {tolerance:g}")
    return reasons


def in_text(found: Mapping[str, Any], args: argparse.Namespace) -> str:
    """What `compare` found, in lines."""
    ours, theirs = found["records"]
    lines = [f"A {args.a}: {ours} records", f"B {args.b}: {theirs} records"]
    lines.append(f"{found['matched']} matched by {found['matched_by']}")
    for name in ("a", "b"):
        rows = found[f"only_{name}"]
        shown = ", ".join(_named(found, name, row) for row in rows[:SHOWN])
        shown += ", ..." if len(rows) > SHOWN else ""
        lines.append(f"{len(rows)} only in {name.upper()}" + (f": {shown}" if rows else ""))
    if found["edited"]:
        lines.append(
            f"{found['edited']} of these are of one medium, which was edited or relabelled"
        )
    lines += [f"identity: {line}" for line in found["identity"]]
    lines += _drift(found["drift"])
    worst = found["drift"]["worst"]
    if worst and worst[0]["rms"]:
        pair = [_named(found, side, worst[0][f"record_{side}"]) for side in ("a", "b")]
        lines.append(f"furthest apart: {pair[0]} of A and {pair[1]} of B")
    return "\n".join(lines)


def _named(found: Mapping[str, Any], side: str, row: int) -> str:
    """Number and source of a record."""
    source = found["sources"][side].get(row)
    return str(row) if source is None else f"{row} ({source})"


def _drift(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{found['compared']} pairs compared, {found['equal']} with equal moments"]
    for name, words in {"mean": "means", "logvar": "log-variances"}.items():
        largest, mean, rms = (found[name][key] for key in ("max_abs", "mean_abs", "rms"))
        lines.append(f"{words} differ by {mean:.4g}, rms {rms:.4g}, at most {largest:.4g}")
    for side in ("a", "b"):
        for key, values in found.get(f"of_{side}", {}).items():
            numbers = " ".join(f"{value:8.4f}" for value in values)
            lines.append(f"{key} of {side.upper()} by channel: {numbers}")
    return lines
