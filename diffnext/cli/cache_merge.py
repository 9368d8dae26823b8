# SPDX-License-Identifier: Apache-2.0
"""Make one cache of several that were made in the same way; nothing is encoded again.

    diffnext cache merge first second --output both

Of a medium that several have, cut and captioned alike, the record of the first counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from diffnext.cli.common import bar, guarded, make_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("cache merge", __doc__)
    parser.add_argument(
        "caches", nargs="+", metavar="CACHE", help="folders of records, or their URLs"
    )
    parser.add_argument("--output", required=True, help="folder of the new cache")
    args = parser.parse_args(argv)
    if len(args.caches) < 2:
        parser.error("two caches or more are merged")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    return guarded("cache merge", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    from diffnext.data.tools.algebra import merge_caches
    from diffnext.models.autoencoders.kinds import class_defaults

    count, double = merge_caches(
        args.caches, args.output, vae_defaults=class_defaults, progress=bar
    )
    print(f"{args.output}: {count} records; {double} left out, which an earlier cache has")
    return 0
