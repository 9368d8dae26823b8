# SPDX-License-Identifier: Apache-2.0
"""Read a whole cache and say what is damaged: records, index, METADATA, journal, identity.

    diffnext cache verify cache
    diffnext cache verify cache --repair --vae /path/to/model
    diffnext cache verify cache --repair --drop

--repair encodes damaged records again from what they were made of, if that is still the same, byte for
byte; prompts that were embedded are embedded again. Exit codes: 0 sound or mended, 1 damaged, 2 wrong
usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict

from diffnext.cli.common import bar, check_vae, guarded, make_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("cache verify", __doc__)
    add = parser.add_argument
    add("cache", help="folder of records, or its URL")
    add("--json", action="store_true", help="for programs; what --repair does comes after it")
    add("--repair", action="store_true", help="mend what is damaged")
    add("--vae", help="folder of the autoencoder that made the cache, or of its model")
    add(
        "--text-model",
        metavar="FOLDER",
        help="model whose text encoder embedded the prompts; without it, that of --vae",
    )
    add("--input", help="what the cache was built from, where captions are damaged too")
    add("--columns", default="", metavar="FIELD=COLUMN,...", help="as it was built with")
    add(
        "--drop",
        action="store_true",
        help="drop what cannot be encoded again, or all without --vae",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add("--workers", type=int, default=1, help="processes that decode (1)")
    args = parser.parse_args(argv)
    if args.repair and not (args.vae or args.drop):
        parser.error("--repair needs --vae to encode damaged records again, or --drop")
    if not args.repair and (args.vae or args.text_model or args.drop or args.input):
        parser.error("--vae, --text-model, --input and --drop are for --repair")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    return guarded("cache verify", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    if args.repair:
        return look_and_mend(args)
    return 1 if look(args).problems else 0


def look_and_mend(args: argparse.Namespace) -> int:
    """Check a cache and repair it, while nobody else writes to it."""
    from diffnext.data.prune import recover
    from diffnext.data.records.lock import FolderLock
    from diffnext.data.tools import repair
    from diffnext.data.urls import is_url

    if is_url(args.cache):
        raise ValueError(
            f"{args.cache} is behind a URL: --repair works on a folder; copy it, repair the copy, and "
            "put that in its place"
        )
    if not os.path.isdir(args.cache):
        raise FileNotFoundError(f"{args.cache} is not a folder of records")
    with FolderLock(args.cache) as lock:
        recover(args.cache)
        repair.clear(args.cache)
        return mend(args, look(args), lock)


def look(args: argparse.Namespace):
    """Check the cache, print what was found. Returns the report."""
    from diffnext.data.tools.verify import check
    from diffnext.data.urls import is_url

    report = check(args.cache, progress=bar)
    if args.json:
        print(json.dumps(asdict(report), indent=2, ensure_ascii=False))
        return report
    for problem in report.problems:
        print(f"{problem.part}: {problem.what}")
    for note in report.notes:
        print(f"note: {note}")
    print(
        f"{args.cache}: {report.records} records, {len(report.damaged)} damaged, "
        f"{len(report.problems) - len(report.damaged)} other problems"
    )
    if report.problems and not args.repair and not is_url(args.cache):
        print(
            beside(args.cache)
            or "--repair --vae FOLDER mends what can be mended; --repair --drop drops damaged records"
        )
    return report


def beside(cache: str) -> str:
    """What to do about damage in a folder of embeddings for another cache; "" if it is none."""
    from diffnext.data.records import read_identity

    if "of" not in (read_identity(cache) or {}):
        return ""
    return (
        f"{cache} holds the prompts of another cache, record by record, so none can be dropped: remove "
        "it, and `diffnext cache prompts` makes it again"
    )


def mend(args: argparse.Namespace, report, lock) -> int:
    """Repair what a check has found."""
    from diffnext.data.records.index import SIDECAR
    from diffnext.data.tools import repair

    parts = {problem.part for problem in report.problems}
    left = parts & {"journal", "identity"}
    if "index" in parts:
        if not report.records:  # it cannot be opened at all
            return bring_back(args, lock)
        os.unlink(os.path.join(args.cache, SIDECAR))
        print(f"{SIDECAR} was removed; what it said to be damaged is looked at again")
        return mend(args, look(args), lock)
    if "checksums" in parts:
        repair.write_sums(args.cache, report.damaged)
        print(f"checksums were written anew as {SIDECAR} has them")
    if "METADATA" in parts:
        repair.finish(args.cache, lock)
        print("METADATA was written; what is complete counts")
    if report.damaged and (advice := beside(args.cache)):
        print(advice)
        return 1
    if report.damaged:
        remedy = make_remedy(args) if args.vae else None
        outcome = repair.repair(
            args.cache, report.damaged, remedy=remedy, drop=args.drop, progress=bar
        )
        for row, reason in sorted(outcome.failed.items()):
            print(f"record {row} cannot be encoded again: {reason}")
        print(f"{len(outcome.mended)} encoded again, {len(outcome.dropped)} dropped")
        if len(outcome.mended) + len(outcome.dropped) < len(report.damaged):
            print("the rest was left as it is; --drop drops what cannot be encoded again")
            return 1
    return 1 if left else 0


def bring_back(args: argparse.Namespace, lock) -> int:
    """Write lost text indexes anew, if the binary copy has them, and go on."""
    from diffnext.data.records.index import SIDECAR
    from diffnext.data.records.index_restore import restore

    names = restore(args.cache)
    if not names:
        return 1
    print(f"{', '.join(names)} written anew as {SIDECAR} has them")
    return mend(args, look(args), lock)


def make_remedy(args: argparse.Namespace):
    """The encoders that made the cache, each to be loaded when its time comes, to encode as they did."""
    from diffnext.cli.build_plan import latents_of
    from diffnext.data.cache_identity import upgrade_identity
    from diffnext.data.records import read_identity
    from diffnext.data.tools.remake import Remedy

    identity = upgrade_identity(read_identity(args.cache) or {})[0]
    if "vae" not in identity or "encode" not in identity.get("dtype", {}):
        raise ValueError(f"{args.cache} does not state what made it; records can only be dropped")
    check_vae(identity, args.vae, args.cache)
    latents = latents_of(args.vae)
    return Remedy(
        lambda: load_vae_encoder(args, identity["dtype"]["encode"], latents),
        latents,
        list_sources(args, identity),
        text_loader(args, identity.get("text_encoder")),
        args.workers,
    )


def load_vae_encoder(args: argparse.Namespace, dtype: str, latents):
    """The autoencoder; the text encoder, if there was one, is gone from memory then."""
    import torch

    from diffnext.cli.cache_prompts import free_memory
    from diffnext.cli.devices import pick_device
    from diffnext.data.encoding import Encoder
    from diffnext.models.autoencoders.loading import load_vae

    free_memory()
    device, _ = pick_device(args.device, "fp32")
    vae = load_vae(args.vae, device=device, dtype=getattr(torch, dtype))
    return Encoder(vae, video=latents.time_stride > 1)


def text_loader(args: argparse.Namespace, stated: dict | None):
    """What makes the text encoder ready that a cache states; None: it states none.

    Raises:
        ValueError: the model has another one, or none.
    """
    from diffnext.cli.cache_prompts import describe_encoder, load_encoder
    from diffnext.data.cache_identity import differences

    if stated is None:
        return None
    model = args.text_model or args.vae
    options = argparse.Namespace(text_model=model, text_dtype=stated["dtype"], device=args.device)
    if lines := differences(stated, describe_encoder(options), "the cache", "--text-model"):
        raise ValueError(
            f"--text-model {model} is not what embedded the prompts of {args.cache}:\n"
            + "\n".join(lines)
        )
    return lambda: load_encoder(options)


def list_sources(args: argparse.Namespace, identity: dict) -> dict:
    """Media of --input with the fields that the records have, by path."""
    from diffnext.data.record_fields import complete
    from diffnext.data.sources import parse_columns, scan

    if not args.input:
        return {}
    listing = scan(args.input, parse_columns(args.columns))
    computed = identity["rules"]
    sources = complete(listing.sources, identity["fields"], computed, listing.failures)
    return {source.path: source for source in sources}
