# SPDX-License-Identifier: Apache-2.0
"""From the options of `diffnext cache build` to its plan, shown before anything is encoded."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time

from diffnext.cli.cache_prompts import describe_encoder
from diffnext.cli.common import bar


def what_is_asked(args: argparse.Namespace, latents, dtype) -> dict:
    """What processes that build one cache must agree on."""
    from diffnext.data.cache_identity import as_compared
    from diffnext.models.autoencoders.kinds import class_defaults
    from diffnext.models.autoencoders.loading import describe_vae

    rules = dataclasses.asdict(view_rules(args, latents))
    options = {"input": args.input, "columns": args.columns, "motion": may_score(args)}
    vae = describe_vae(args.vae)
    made_by = as_compared({"vae": vae}, class_defaults(vae["class"]))
    if args.encode_prompts:
        made_by["text_encoder"] = describe_encoder(args)
    return {**options, **rules, "dtype": str(dtype), **made_by}


def plan_build(args: argparse.Namespace, latents, dtype, shelf=None):
    """Make the plan and show it; refuse one that the disk has no room for.

    Args:
        shelf: where what is fetched for the plan stays for the build.
    """
    from diffnext.data import motion
    from diffnext.data.plan_table import summary, table

    listing = list_media(args)
    if shelf is not None:
        listing.sources = shelf.serve(listing.sources)
    scored = is_scored(args, listing)
    if scored:
        motion.load_opencv()  # to be told now, not by every video, if it is missing
    start = time.perf_counter()
    plan = compare(args, listing, latents, dtype, scored)
    if shelf is not None:
        shelf.expect(task.source.location for task in plan.tasks)
    print(table(plan, prune=args.prune))
    print(summary(plan, time.perf_counter() - start), flush=True)
    if plan.num_bytes > plan.free_bytes and shelf is not None:
        shelf.clear()  # records come first; what was copied is fetched once more
    if plan.num_bytes > plan.free_bytes:
        raise ValueError(
            f"--output {args.output}: the disk is too small for this plan; make room, or choose "
            "another --output"
        )
    return plan


def list_media(args: argparse.Namespace):
    """What there is in the input."""
    from diffnext.data.progress import Tally
    from diffnext.data.sources import parse_columns, scan

    with contextlib.closing(Tally(sys.stderr)) as tally:
        return scan(args.input, parse_columns(args.columns), tick=tally)


def may_score(args: argparse.Namespace) -> bool:
    """Whether this process computes motion scores, should there be videos without one."""
    from diffnext.data import motion

    if args.motion is not None:
        return args.motion
    return max(args.num_frames) > 1 and motion.has_opencv()


def is_scored(args: argparse.Namespace, listing) -> bool:
    """Whether motion scores are computed: as is asked; or else as in the cache that is added to; in a
    new one of videos always, as some may come later that have none."""
    from diffnext.data.records import holds_records, read_identity

    if args.motion is not None:
        return args.motion
    if holds_records(args.output):
        return "flow" in (read_identity(args.output) or {}).get("rules", {})
    kinds = (source.location.kind for source in listing.sources)
    if max(args.num_frames) == 1 or "video" not in kinds:
        return False
    can = may_score(args)
    if not can:
        print(
            "no motion scores: OpenCV cannot be imported; pip install diffnext[motion], or "
            "--no-motion"
        )
    return can


def compare(args: argparse.Namespace, listing, latents, dtype, scored: bool):
    """The plan: what is listed, held against what the cache holds."""
    from diffnext.data.cache_plan import make_plan

    with contextlib.ExitStack() as bars:  # which an interrupt clears too
        return make_plan(
            listing,
            args.output,
            rules=view_rules(args, latents),
            latents=latents,
            made_by=made_by(args, dtype, scored),
            workers=4 if args.workers is None else args.workers,
            limit_s=args.decode_timeout,
            retry_failed=args.retry_failed,
            remember=not args.dry_run,
            progress=lambda *what: bars.enter_context(contextlib.closing(bar(*what))),
        )


def made_by(args: argparse.Namespace, dtype, scored: bool):
    """What will encode the media and their captions."""
    from diffnext.data import motion
    from diffnext.data.cache_identity import MadeBy
    from diffnext.models.autoencoders.kinds import class_defaults
    from diffnext.models.autoencoders.loading import describe_vae

    return MadeBy(
        vae=describe_vae(args.vae),
        dtype=str(dtype).removeprefix("torch."),
        vae_defaults=class_defaults,
        computed={"flow": motion.RULE} if scored else {},
        text_encoder=describe_encoder(args) if args.encode_prompts else None,
    )


def view_rules(args: argparse.Namespace, latents):
    """What is cut out of each medium, as the options say; checked against the autoencoder."""
    from diffnext.data.view_rules import ViewRules, aspect_sizes

    multiple = args.multiple or (2 if args.aspect_ratios else 1)
    sizes = tuple((size,) for size in args.resolution)
    if args.aspect_ratios:
        step = multiple * latents.space_stride
        areas = [height * width for height, width in args.resolution]
        sizes = tuple(aspect_sizes(area, args.aspect_ratios, step) for area in areas)
    rules = ViewRules(
        sizes=sizes,
        num_frames=args.num_frames,
        frame_stride=args.frame_stride,
        fps=args.fps,
        windows=args.windows,
        flip=args.flip,
        pad=args.short == "pad",
        upscale=not args.no_upscale,
    )
    latents.check(rules, multiple)
    return rules


def latents_of(path: str):
    """Latent sizes of the autoencoder in a folder, by its configuration alone."""
    from diffnext.data.latents import Latents
    from diffnext.models.autoencoders.loading import find_vae, settings_of

    settings = settings_of(find_vae(path))
    return Latents(settings["latent_channels"], *settings.strides())


def estimate_time(count: int, plan, tools) -> None:
    """Say how long the build will take one process, by a few of its media."""
    from diffnext.data.cache_rates import probe_rates
    from diffnext.data.plan_table import expected

    rates = probe_rates(
        plan,
        tools.load(),
        count=count,
        batch_size=tools.batch_size,
        workers=tools.workers,
        decode_timeout_s=tools.decode_timeout_s,
    )
    num_bytes = sum(task.num_bytes for task in plan.tasks)
    print(expected(rates.decode, rates.encode, num_bytes, plan.samples))
