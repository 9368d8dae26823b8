# SPDX-License-Identifier: Apache-2.0
"""The options of `diffnext generate`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from diffnext.cli.common import make_parser, refuse_url

RANGES = {
    **dict.fromkeys(
        ("samples", "limit", "batch_size", "steps", "diffusion_steps", "num_frames"),
        (lambda value: value >= 1, "1 or more"),
    ),
    **dict.fromkeys(("flow_shift", "fps"), (lambda value: 0 < value < math.inf, "more than 0")),
    **dict.fromkeys(
        (
            "guidance_scale",
            "min_guidance_scale",
            "guidance_trunc",
            "guidance_renorm",
            "motion_flow",
        ),
        (math.isfinite, "a finite number"),
    ),
    "seed": (lambda value: 0 <= value < 2**63, "0 to 2**63 - 1"),
}


def parse_args(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    parser = make_parser("generate", description)
    add_prompts(parser)
    add_sampling(parser)
    add_guidance(parser)
    add_output(parser)
    args = parser.parse_args(argv)
    for name, (allowed, wanted) in RANGES.items():
        value = getattr(args, name)
        if value is not None and not allowed(value):
            parser.error(f"--{name.replace('_', '-')} is {value}, wanted {wanted}")
    if bool(args.prompt) + bool(args.prompts) + bool(args.label) != 1:
        parser.error("give one of --prompt, --prompts and --label")
    refuse_url(parser, "--out", args.out)
    return args


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """By what, and what is sampled."""
    add = parser.add_argument
    add("--model", required=True, help="folder with model_index.json, or a snapshot of training")
    add("--snapshot", help="take the transformer from this snapshot, or the newest one in a folder")
    add("--prompt", nargs="+", default=[], help="one prompt or several")
    add("--prompts", help='file of prompts: one a line, or JSON lines {"prompt": ...}')
    add("--label", nargs="+", type=int, default=[], help="classes, for a model of classes")
    add("--negative-prompt", help="what to stay away from")
    add("--image", help="picture that is the first frame of every video")
    add("--limit", type=int, help="use the first so many prompts only")
    add("--samples", type=int, default=1, help="samples of each prompt (1)")
    add("--seed", type=int, default=0, help="seed of the first sample (0)")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How many frames, in how many steps."""
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--num-frames", type=int, help="frames of a video; 1 makes pictures")
    length.add_argument("--max-latent-length", type=int, help="latent frames instead of frames")
    add = parser.add_argument
    add("--steps", type=int, default=64, help="autoregressive steps of a frame (64)")
    add("--diffusion-steps", type=int, default=25, help="denoising steps of each of these (25)")
    add(
        "--motion-flow",
        type=float,
        default=5.0,
        help="motion of videos, as its scores in training (5)",
    )
    add("--flow-shift", type=float, help="shift of the flow schedule (as in the model)")
    add("--batch-size", type=int, default=8, help="samples at a time (8)")


def add_guidance(parser: argparse.ArgumentParser) -> None:
    """How closely the prompt is followed."""
    add = parser.add_argument
    add("--guidance-scale", type=float, default=5.0, help="strength of guidance, 1 for none (5)")
    add("--min-guidance-scale", type=float, help="strength to start from; grows to the full one")
    add(
        "--guidance-trunc", type=float, default=0.0, help="timestep below which guidance is off (0)"
    )
    add(
        "--guidance-renorm",
        type=float,
        default=1.0,
        help="least factor of renormalisation (1: off)",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """What is written, and where and in which precision it is computed."""
    add = parser.add_argument
    add("--out", default="samples", help="folder for the results (samples); of one, also a file")
    add("--format", choices=("png", "mp4", "gif"), help="png for pictures; mp4 (default) or gif")
    add("--fps", type=float, default=12.0, help="frames a second of the file (12)")
    add("--device", help="cpu, cuda, cuda:1, mps (an accelerator where there is one)")
    add(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="(float32 on cpu, else float16)"
    )
