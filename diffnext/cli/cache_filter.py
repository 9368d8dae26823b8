# SPDX-License-Identifier: Apache-2.0
"""Make a cache of those records of another that fulfil all conditions; nothing is encoded again.

    diffnext cache filter cache --where "flow>=2" --where "caption~red (cat|dog)" --output some

A condition is NAME OPERATOR VALUE. NAME is a field of the records (caption, text, label, flow, ...), or
shape (8x64x64, as stored), frames, height, width (of the latents), source (the path of the medium),
flip (1 if it is mirrored), record (its number). Operators: = and != take several values, separated
by commas, and * and ? in text; < <= > >= are for numbers; ~ and !~ for regular expressions that are
found anywhere, or nowhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from diffnext.cli.common import bar, guarded, make_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("cache filter", __doc__)
    parser.add_argument("cache", help="folder of records, or its URL")
    parser.add_argument("--where", action="append", required=True, metavar="CONDITION")
    parser.add_argument("--output", required=True, help="folder of the new cache")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return guarded("cache filter", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    from diffnext.data.tools.algebra import filter_cache

    kept, total = filter_cache(args.cache, args.output, args.where, progress=bar)
    print(f"{args.output}: {kept} of {total} records")
    return 0
