# SPDX-License-Identifier: Apache-2.0
"""Encode pictures or videos once, so that training reads their latents: a folder of records.

    diffnext cache build --input photos --output cache --vae /path/to/model --resolution 1024
    diffnext cache build --input clips.csv --output cache --vae /path/to/model \\
        --resolution 480x768 --num-frames 33 --frame-stride 2

The input is a folder (name.jpg with its caption in name.txt, or fields in name.json), a manifest (.csv,
.jsonl, .json, .parquet with the columns path, caption, text, label, flow), a Hugging Face data set, or
tars (shards-{0000..0009}.tar); local, or a URL. The same command run again encodes what is new. Exit
codes: 0 built, 1 too many failures, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from diffnext.cli.build_args import parse_args
from diffnext.cli.build_plan import estimate_time, latents_of, plan_build, what_is_asked
from diffnext.cli.cache_prompts import check_prompts, embed_plan, help_embed
from diffnext.cli.devices import pick_device, pick_workers
from diffnext.cli.ranks import is_one_of_many
from diffnext.utils.files import FULL_DISK


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv, __doc__)
    try:
        return run(args)
    except (OSError, ValueError) as error:
        print(f"build_cache: {error}", file=sys.stderr)
        if getattr(error, "errno", None) in FULL_DISK:
            print(
                f"  what is in {args.output} is kept; the same command goes on when there is room",
                file=sys.stderr,
            )
        return 2
    except KeyboardInterrupt:
        print("build_cache: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    """Show the plan of a dry run; or build, alone or with others."""
    from diffnext.data.cache_part import Tools
    from diffnext.data.cache_ranks import lead_or_follow
    from diffnext.data.records.lock import FolderLock

    device, dtype = pick_device(args.device, args.dtype)
    check_prompts(args, many=args.join or is_one_of_many())
    latents = latents_of(args.vae)
    tools = Tools(
        lambda: load_encoder(args, latents, device, dtype),
        args.batch_size,
        pick_workers(device) if args.workers is None else args.workers,
        args.decode_timeout,
    )
    if args.dry_run:
        show_plan(args, latents, dtype, tools)
        return 0
    if args.join or is_one_of_many():
        asked = what_is_asked(args, latents, dtype)
        return lead_or_follow(
            args.output,
            tools,
            asked,
            lambda lock: lead(args, lock, latents, dtype, tools, asked),
            help_out=lambda: help_embed(args, asked.get("text_encoder")),
        )
    with FolderLock(args.output) as lock:
        return lead(args, lock, latents, dtype, tools)


def show_plan(args: argparse.Namespace, latents, dtype, tools) -> None:
    """Plan, and estimate how long a build would take."""
    from diffnext.data.worklist import find

    plan = plan_build(args, latents, dtype)
    if find(args.output) is not None:
        print("records of a build by many processes are not joined yet; they count as to encode")
    if args.probe and plan.tasks:
        estimate_time(args.probe, plan, tools)


def lead(args: argparse.Namespace, lock, latents, dtype, tools, asked=None) -> int:
    """Plan, show the plan, build, sum up. The autoencoder is loaded when all else is known to fit.

    Args:
        asked: by all processes that take part; None: this one builds alone.
    """
    from diffnext.data.cache_ranks import settle
    from diffnext.data.prompt_store import PromptStore
    from diffnext.data.prune import recover
    from diffnext.data.shelf import Shelf

    recover(args.output)
    settle(args.output)
    with Shelf(args.output) as shelf:
        plan = plan_whole(args, lock, latents, dtype, shelf)
        store = embed_plan(args, plan, many=asked is not None) if args.encode_prompts else None
        report = encode(plan, lock, tools, asked)
    if store is None:
        store = PromptStore(args.output)  # of a build that embedded prompts and was killed
    store.discard()
    if args.prune:
        plan.drop_stale()
    return summarise(plan, report, args)


def plan_whole(args: argparse.Namespace, lock, latents, dtype, shelf):
    """The plan; records of which it is not known any more what they were made of are dropped before."""
    from diffnext.data.journal import DamagedJournal
    from diffnext.data.journal_mend import drop_unknown

    try:
        return plan_build(args, latents, dtype, shelf)
    except DamagedJournal as error:
        print(error)
        dropped = drop_unknown(args.output, lock)
        print(f"{len(dropped)} records were dropped, the first of them number {dropped[0]}")
        return plan_build(args, latents, dtype, shelf)


def encode(plan, lock, tools, asked):
    """Carry out the plan. Returns the report."""
    from diffnext.data.cache import build
    from diffnext.data.cache_ranks import build_shared
    from diffnext.data.progress import Display

    with contextlib.closing(Display(sys.stderr)) as display:
        if asked is not None and plan.tasks:
            return build_shared(plan, tools, lock=lock, asked=asked, show=display)
        return build(
            plan,
            tools.load() if plan.tasks else None,
            batch_size=tools.batch_size,
            workers=tools.workers,
            decode_timeout_s=tools.decode_timeout_s,
            lock=lock,
            show=display,
        )


def load_encoder(args: argparse.Namespace, latents, device: str, dtype):
    """The autoencoder, ready to encode."""
    from diffnext.data.encoding import KEPT_BYTES, Encoder
    from diffnext.models.autoencoders.loading import load_vae
    from diffnext.utils.malloc import keep_freed_memory

    if device == "cpu":
        keep_freed_memory(KEPT_BYTES)
    vae = load_vae(args.vae, device=device, dtype=dtype)
    return Encoder(vae, video=latents.time_stride > 1, compiled=args.compile)


def summarise(plan, report, args: argparse.Namespace) -> int:
    """Print what was done; the exit code says whether it is within the failures allowed."""
    from diffnext.data.ledger import LEDGER

    held = len(plan.journal.entries)
    failed = len(report.failures)
    print(
        f"{args.output}: {report.written} written, {held} records in all, "
        f"{len(plan.dropped)} dropped, {failed} failed"
    )
    for failure in report.failures[:5]:
        print(f"  {failure.stage}: {failure.file}: {failure.reason}", file=sys.stderr)
    if failed or plan.dropped:
        print(f"  all of them: {args.output}/{LEDGER}", file=sys.stderr)
    limit, is_share = args.max_failures
    allowed = limit * plan.total if is_share else limit
    if failed > allowed:
        print(f"build_cache: {failed} of {plan.total} failed, {allowed:g} allowed", file=sys.stderr)
        return 1
    if not held:
        print("build_cache: the cache is empty", file=sys.stderr)
        return 1
    return 0
