# SPDX-License-Identifier: Apache-2.0
"""Make a cache of latents that other software has stored; nothing is encoded again.

    diffnext cache import mar_cache --from mar --output cache --vae /path/to/model

Layouts: mar (an .npz a sample, in folders of classes), lightningdit (.safetensors), fastvideo (.parquet),
webdataset (.tar with .npy or .npz). --vae says which autoencoder made them, so that training can compare
it with its own. docs/cache.md says what each layout can hold.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from diffnext.cli.common import LAYOUTS, bar, guarded, make_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("cache import", __doc__)
    add = parser.add_argument
    add("source", help="what the other software has written")
    add("--from", dest="layout", required=True, choices=LAYOUTS, help="its layout")
    add("--output", required=True, help="folder of the new cache")
    add("--vae", help="folder of the autoencoder that made it, or of its model")
    add("--no-flips", action="store_true", help="leave mirrored samples out")
    add(
        "--embeddings", action="store_true", help="take prompt embeddings, not captions (fastvideo)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return guarded("cache import", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    from diffnext.data.records import read_identity
    from diffnext.data.tools.exchange import Options, import_cache

    count = import_cache(
        args.layout,
        args.source,
        args.output,
        options=Options(flips=not args.no_flips, embeddings=args.embeddings),
        made=known(args.vae) if args.vae else None,
        progress=bar,
    )
    print(f"{args.output}: {count} records")
    unknown = (read_identity(args.output) or {}).get("imported", {}).get("unknown")
    if unknown:
        print(f"not known of them: {', '.join(unknown)}")
    return 0


def known(vae: str) -> dict[str, Any]:
    """What the identity says of an autoencoder."""
    from diffnext.models.autoencoders.loading import describe_vae, find_vae, strides_of

    time, space = strides_of(find_vae(vae))
    return {"vae": describe_vae(vae), "strides": {"time": time, "space": space}}
