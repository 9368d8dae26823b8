# SPDX-License-Identifier: Apache-2.0
"""Whether pictures show what their prompts say, attribute by attribute, and how much they vary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from diffnext.shapes.see import Seen, see
from diffnext.shapes.world import ATTRIBUTES, check_names

SINGLE = "single"  # beside the attributes that were asked for: there is exactly one thing


def score(pixels: np.ndarray, wanted: Mapping[str, str]) -> dict[str, bool]:
    """Judge a picture, uint8 (H, W, 3), or a video, uint8 (T, H, W, 3).

    Args:
        wanted: attribute to value, for the attributes that the prompt names.

    Returns:
        For each wanted attribute whether the pixels show it, and "single": whether just one thing
        is there. All are False where nothing is. A picture has no direction and no speed.

    Raises:
        ValueError: nothing, or something that this world does not have, is wanted; wrong pixels.
    """
    return judge(see(pixels), wanted)


def judge(seen: Seen, wanted: Mapping[str, str]) -> dict[str, bool]:
    """`score` of what `see` returned."""
    check_names(wanted)
    if not wanted:
        raise ValueError("nothing is wanted: the prompt names no attribute of the shapes world")
    right = {key: seen.names.get(key) == wanted[key] for key in ATTRIBUTES if key in wanted}
    return right | {SINGLE: seen.things == 1}


def aggregate(scores: Sequence[Mapping[str, bool]]) -> dict[str, float]:
    """Shares of pictures that are right: in each attribute, in colour and shape at once, in all.

    A share counts only the pictures that were asked for it, and is absent if none was. "all"
    includes "single". "count" is the number of pictures.
    """
    if not scores:
        raise ValueError("no pictures were scored")
    shares: dict[str, float] = {"count": len(scores)}
    for key in (*ATTRIBUTES, SINGLE):
        asked = [right[key] for right in scores if key in right]
        if asked:
            shares[key] = float(np.mean(asked))
    both = [
        right["colour"] and right["shape"]
        for right in scores
        if {"colour", "shape"} <= right.keys()
    ]
    if both:
        shares["colour and shape"] = float(np.mean(both))
    shares["all"] = float(np.mean([all(right.values()) for right in scores]))
    return shares


def diversity(pictures: Sequence[np.ndarray], seen: Sequence[Seen]) -> dict[str, float] | None:
    """How much pictures of one prompt differ; None for fewer than two.

    Returns:
        pixels: root mean square difference of two pictures, of 1.
        place: standard deviation of (x, y), fractions of the side.
        size: standard deviation of the logarithm of the radius.
        The last two leave out pictures that show nothing, and are 0 for fewer than two others.
    """
    if len(pictures) < 2:
        return None
    values = np.stack(pictures).astype(np.float64) / 255
    there = [one for one in seen if one.things]
    x, y = np.array([one.x for one in there]), np.array([one.y for one in there])
    radius = np.log([one.radius for one in there])
    return {
        "pixels": math.sqrt(2 * values.var(0, ddof=1).mean()),  # mean over pairs of squares = 2 var
        "place": math.sqrt(x.var(ddof=1) + y.var(ddof=1)) if len(there) > 1 else 0.0,
        "size": float(radius.std(ddof=1)) if len(there) > 1 else 0.0,
    }
