# SPDX-License-Identifier: Apache-2.0
"""Say what a cache holds: counts, shapes, bytes, fields, what made it, mean and std of its latents."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from diffnext.cli.common import bar, guarded, make_parser

ODD = {"damaged": "of them are damaged", "not_finite": "of them have NaN or infinite values"}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("cache info", __doc__)
    parser.add_argument("cache", help="folder of records, or its URL")
    parser.add_argument(
        "--sample",
        type=int,
        default=256,
        metavar="N",
        help="records whose latents are looked at, evenly spread (256); 0: none, -1: all",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.parse_args(argv)
    if args.sample < -1:
        parser.error(f"--sample {args.sample}: -1 for all, 0 for none, or a number of records")
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
    from diffnext.utils.trees import flatten
    from diffnext.utils.words import bytes_in_words

    lines = [f"{found['path']}: {found['records']} records", *_buckets(found)]
    fields = (f"{name} ({_kind(kind)})" for name, kind in found["fields"].items())
    lines.append(f"fields: {', '.join(fields)}")
    size, disk = (bytes_in_words(found[key]) for key in ("record_bytes", "disk_bytes"))
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
        lines.append("what made it:")
        leaves = flatten(found["identity"])  # named as `cache diff` names them
        lines += [
            f"  {key}: {json.dumps(leaf, ensure_ascii=False)}" for key, leaf in leaves.items()
        ]
    return "\n".join(lines)


def _latents(found: Mapping[str, Any]) -> list[str]:
    lines = [f"latents of {found['records']} records, channel by channel:"]
    for name in ("mean", "std"):
        lines.append(f"  {name:<5}" + " ".join(f"{value:8.4f}" for value in found[name]))
    lines += [f"  {found[key]} {words}" for key, words in ODD.items() if found[key]]
    return lines


def _buckets(found: Mapping[str, Any]) -> list[str]:
    """Shape of the moments, what that is in frames and pixels, and how many records have it."""
    strides = (found["identity"] or {}).get("strides")
    lines = [f"  {'moments':<16}{'of':<22}{'records':>9}"] if found["shapes"] else []
    for group in found["shapes"]:
        view = "" if strides is None else _view(group["shape"], strides)
        lines.append(f"  {_sides(group['shape']):<16}{view:<22}{group['records']:>9}")
    return lines


def _view(shape: Sequence[int], strides: Mapping[str, int]) -> str:
    """Height and width in pixels; of videos, frames too."""
    height, width = (side * strides["space"] for side in shape[-2:])
    frames = (shape[1] - 1) * strides["time"] + 1 if len(shape) == 4 else 1
    return f"{height}x{width} px" + (f", {frames} frames" if frames > 1 else "")


def _kind(kind: Any) -> str:
    """The type of a field in words."""
    if isinstance(kind, Mapping):
        return "embedding"
    return f"list of {_kind(kind[0])}" if isinstance(kind, list) else kind.lower()


def _sides(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
