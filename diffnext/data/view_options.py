# SPDX-License-Identifier: Apache-2.0
"""The options of a command line that say what is cut out of each medium. Importing this is quick."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

Add = Callable[..., Any]  # `add_argument` of a parser or of a group
ASPECT_RATIOS = ("1:1", "5:4", "4:5", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16", "2:1", "1:2")


def add_views(parser: argparse.ArgumentParser) -> None:
    """Options that say what is cut out of each medium."""
    add = parser.add_argument_group("what is cut out of each medium").add_argument
    add_sizes(add)
    add_frames(add)


def add_sizes(add: Add) -> None:
    """Height and width of what is cut out."""
    add(
        "--resolution",
        required=True,
        type=resolutions,
        help="N or HxW, pixels: 1024, 480x768; several with commas: each medium in each of them",
    )
    add(
        "--aspect-ratios",
        nargs="?",
        type=ratios,
        const=ASPECT_RATIOS,
        metavar="W:H,...",
        help="sizes of these shapes, of about as many pixels as the resolution; a medium gets the one "
        f"nearest to its own shape; without a list {','.join(ASPECT_RATIOS)}",
    )
    add(
        "--multiple",
        type=positive,
        metavar="M",
        help="sides are multiples of M latents, the patch of the network; 1, or 2 with --aspect-ratios",
    )
    add("--no-upscale", action="store_true", help="drop media with fewer pixels than the size")
    add("--flip", action="store_true", help="a mirrored sample beside each")


def add_frames(add: Add) -> None:
    """Which frames of a video are taken."""
    add(
        "--num-frames",
        type=numbers,
        default=(1,),
        metavar="N,...",
        help="frames of a video; of several, a clip gets the most that it fills; 1 is for pictures",
    )
    add("--frame-stride", type=positive, default=1, metavar="N", help="take every n-th frame")
    add(
        "--fps",
        type=rate,
        metavar="F",
        help="frames a second: those nearest in time, repeated if need be",
    )
    add(
        "--windows",
        type=lambda text: None if text == "all" else positive(text),
        default=1,
        metavar="N",
        help="parts of a long clip, at most N or all that fit: evenly spread, none overlapping another",
    )
    add(
        "--short",
        choices=("drop", "pad"),
        default="drop",
        help="clips that are too short: leave them out, or repeat their last frame",
    )


def resolutions(text: str) -> tuple[tuple[int, int], ...]:
    """Parse N or HxW, one or several."""
    matches = [re.fullmatch(r"(\d+)(?:[xX](\d+))?", part) for part in text.split(",")]
    if not all(matches):
        raise argparse.ArgumentTypeError(f"{text!r}: N or HxW is wanted, such as 1024 or 480x768")
    return tuple((int(match[1]), int(match[2] or match[1])) for match in matches)


def ratios(text: str) -> tuple[str, ...]:
    """Parse W:H, one or several."""
    parts = tuple(text.split(","))
    if not all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: width to height is wanted, such as 16:9,1:1")
    return parts


def numbers(text: str) -> tuple[int, ...]:
    """Parse whole numbers above 0, one or several."""
    return tuple(positive(part) for part in text.split(","))


def positive(text: str) -> int:
    """Parse a whole number above 0."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number above 0 is wanted")
    return int(text)


def rate(text: str) -> float:
    """Parse frames a second: a number above 0, or a fraction such as 30000/1001."""
    match = re.fullmatch(r"(\d+\.?\d*)(?:/(\d+))?", text)
    if not match or not float(match[1]) or match[2] == "0":
        raise argparse.ArgumentTypeError(f"{text!r}: frames a second are wanted, such as 24")
    return float(match[1]) / int(match[2] or 1)
