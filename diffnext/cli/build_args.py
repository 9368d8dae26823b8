# SPDX-License-Identifier: Apache-2.0
"""The options of `diffnext cache build`."""

from __future__ import annotations

import argparse
import re

from diffnext.cli.cache_prompts import add_prompts
from diffnext.cli.common import make_parser, refuse_url
from diffnext.cli.devices import DTYPES
from diffnext.data.view_options import add_views, positive

MOST_S = 86400  # of a time limit


def parse_args(argv: list[str] | None, description: str) -> argparse.Namespace:
    parser = make_parser("cache build", description)
    add_input(parser)
    add_views(parser)
    add_content(parser)
    add_prompts(parser)
    add_speed(parser)
    add_device(parser)
    add_checks(parser)
    args = parser.parse_args(argv)
    if args.dtype not in {"auto", *DTYPES, *DTYPES.values()}:
        parser.error(f"--dtype {args.dtype!r}: auto or one of {sorted(DTYPES)} is wanted")
    refuse_url(parser, "--output", args.output)
    return args


def add_input(parser: argparse.ArgumentParser) -> None:
    """From what, where to, by which autoencoder."""
    add = parser.add_argument
    add("--input", required=True, help="folder, manifest, data set, tars or a single file")
    add(
        "--columns",
        default="",
        metavar="FIELD=COLUMN,...",
        help="names of the columns, where they are not the usual ones: caption=recap,path=clip",
    )
    add("--output", required=True, help="folder of the cache")
    add("--vae", required=True, help="folder of an autoencoder, or of a model that holds vae/")


def add_content(parser: argparse.ArgumentParser) -> None:
    """What becomes of media besides their views."""
    add = parser.add_argument
    add("--retry-failed", action="store_true", help="try again what failed before as it is now")
    add("--prune", action="store_true", help="drop records that fit no listed medium any more")
    add(
        "--motion",
        action=argparse.BooleanOptionalAction,
        help="compute the field flow of videos that have none: mean length of the optical flow, in "
        "pixels of a picture of 480 lines per 1/12 s; if neither is given, as the cache has it, in a "
        "new one where OpenCV can be imported",
    )


def add_speed(parser: argparse.ArgumentParser) -> None:
    """Options that decide how fast the build is, and not what it gives."""
    add = parser.add_argument_group("how it is done").add_argument
    add(
        "--batch-size",
        type=positive,
        default=8,
        metavar="N",
        help="samples of the smallest size that are encoded together; of larger ones as many as have "
        "no more pixels; fewer where memory turns out too small",
    )
    add(
        "--workers",
        type=lambda text: 0 if text == "0" else positive(text),
        metavar="N",
        help="processes that decode; without it one a core (at most 16), or beside an autoencoder on "
        "the CPU one for every four; 0: none, and no time limit",
    )
    add(
        "--decode-timeout",
        type=seconds,
        default=120.0,
        metavar="S",
        help="seconds after which the decoding of a medium is given up; default 120",
    )
    add("--compile", action="store_true", help="torch.compile: slow to begin; try it on a GPU")
    add(
        "--join",
        action="store_true",
        help="share the work with every process started like this one, on any node; under torchrun or "
        "srun with several processes that goes without saying",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where the autoencoder runs, and in which precision."""
    add = parser.add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add("--dtype", default="auto", help="auto, fp32, fp16 or bf16; auto: fp16 on cuda, else fp32")


def add_checks(parser: argparse.ArgumentParser) -> None:
    """What is looked at before and after."""
    add = parser.add_argument
    add("--dry-run", action="store_true", help="show the plan and stop")
    add(
        "--probe",
        type=int,
        default=8,
        metavar="N",
        help="media that a dry run decodes and encodes to estimate the time; 0: no weights are loaded",
    )
    add(
        "--max-failures",
        type=allowance,
        default=allowance("10%"),
        metavar="N",
        help="exit with 1 above so many failures: a count (20) or a share (0.01, 1%%); default 10%%",
    )


def seconds(text: str) -> float:
    """Parse a time: a number above 0, and not more than the system can wait for."""
    if not re.fullmatch(r"\d+\.?\d*|\.\d+", text) or not 0 < float(text) <= MOST_S:
        raise argparse.ArgumentTypeError(
            f"{text!r}: seconds, above 0, at most {MOST_S}, are wanted"
        )
    return float(text)


def allowance(text: str) -> tuple[float, bool]:
    """Parse a number of failures: a count, or a share written with a point or %. Second: is a share."""
    match = re.fullmatch(r"(\d+|\d*\.\d+|\d+\.)(%?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: a count (20) or a share (0.01, 1%) is wanted")
    if match[2]:
        return float(match[1]) / 100, True
    return float(match[1]), "." in match[1]
