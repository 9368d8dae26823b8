# SPDX-License-Identifier: Apache-2.0
"""Split a cache by chance, as to hold a part of it out; nothing is encoded again.

    diffnext cache split cache --shares 0.95,0.05 --output train held_out

All records of a medium (its sizes, windows, mirrored twins) come into the same part. The same seed
draws the same parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from diffnext.cli.common import bar, guarded, make_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("cache split", __doc__)
    parser.add_argument("cache", help="folder of records, or its URL")
    parser.add_argument(
        "--shares", required=True, type=shares, help="one each, in all 1: 0.95,0.05"
    )
    parser.add_argument("--output", required=True, nargs="+", help="folders of the new caches")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    args = parser.parse_args(argv)
    if len(args.shares) != len(args.output):
        parser.error(f"{len(args.shares)} shares for {len(args.output)} folders")
    return args


def shares(text: str) -> list[float]:
    """Parse numbers that are separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers are wanted, as 0.9,0.1") from error


def main(argv: Sequence[str] | None = None) -> int:
    return guarded("cache split", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    from diffnext.data.tools.algebra import split_cache

    counts = split_cache(args.cache, args.output, args.shares, seed=args.seed, progress=bar)
    for output, count in zip(args.output, counts, strict=True):
        print(f"{output}: {count} records")
    return 0
