# SPDX-License-Identifier: Apache-2.0
"""Say what a cache holds: counts, shapes, bytes, fields, what made it, mean and spread of its latents."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from diffnext.cli.common import bar, guarded, in_words, parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser("cache info", __doc__)
    made.add_argument("cache", help="folder of records, or its URL")
    made.add_argument(
        "--sample",
        type=int,
        default=256,
        metavar="N",
        help="records whose latents are looked at, evenly spread (256); 0: none, -1: all",
    )
    made.add_argument("--json", action="store_true", help="for programs")
    args = made.parse_args(argv)
    if args.sample < -1:
        made.error(f"--sample {args.sample}: -1 for all, 0 for none, or a number of records")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    return guarded("cache info", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    from diffnext.data.tools.summary import describe

    found = describe(args.cache, sample=None if args.sample < 0 else args.sample, progress=bar)
    print(json.dumps(found, indent=2, ensure_ascii=False) if args.json else in_text(found))
    return 0


def in_text(found: Mapping[str, Any]) -> str:
    """What `describe` found, in lines."""
    lines = [f"{found['records']} records with {found['fields']}"]
    lines += [f"  {_sides(group['shape']):<18}{group['records']:>9}" for group in found["shapes"]]
    size, disk = in_words(found["record_bytes"]), in_words(found["disk_bytes"])
    lines.append(f"{size} of records, {disk} on the disk")
    lines.append(f"{found['checked']} records have a checksum")
    if not found["finished"]:
        lines.append("not finished: the same build goes on with it")
    if found["failures"]:
        lines.append(f"{found['failures']} lines in failures.jsonl")
    if "latents" in found:
        lines += _latents(found["latents"])
    if found["identity"] is None:
        lines.append("no identity: what made it is not known")
    else:
        lines.append(json.dumps(found["identity"], indent=2, ensure_ascii=False))
    return "\n".join(lines)


def _latents(found: Mapping[str, Any]) -> list[str]:
    lines = [f"latents of {found['records']} records, channel by channel:"]
    for name in ("mean", "std"):
        lines.append(f"  {name:<5}" + " ".join(f"{value:8.4f}" for value in found[name]))
    lines += [f"  {found[key]} {words}" for key, words in ODD.items() if found[key]]
    return lines


ODD = {"damaged": "of them are damaged", "not_finite": "of them have NaN or infinite values"}


def _sides(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
