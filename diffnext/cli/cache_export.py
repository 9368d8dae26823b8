# SPDX-License-Identifier: Apache-2.0
"""Write the records of a cache as other software stores them.

    diffnext cache export cache --to webdataset --output tars

Layouts: mar, lightningdit, fastvideo, webdataset. lightningdit and fastvideo hold latents, not moments:
--means writes the means of the posterior and lets its variances go.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from diffnext.cli.common import LAYOUTS, bar, guarded, make_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("cache export", __doc__)
    parser.add_argument("cache", help="folder of records, or its URL")
    parser.add_argument("--to", dest="layout", required=True, choices=LAYOUTS, help="the layout")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--means", action="store_true", help="let variances go")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return guarded("cache export", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    from diffnext.data.tools.exchange import Options, export_cache

    count, remarks = export_cache(
        args.cache, args.layout, args.output, options=Options(means=args.means), progress=bar
    )
    print(f"{args.output}: {count} records as {args.layout}")
    for remark in remarks:
        print(f"note: {remark}")
    return 0
