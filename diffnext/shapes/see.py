# SPDX-License-Identifier: Apache-2.0
"""What a picture or a video shows, from its pixels alone.

The border tells the background; what differs from it by more than half of the strongest difference
is the foreground; its largest connected part is the thing. Colours are compared in opponent
coordinates, in which brightness counts less than hue; shapes by overlap with templates. A generated
picture may be blurred, noisy or a little off in colour: each name is the nearest one, and None
where even that is too far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from diffnext.shapes.match import core, overlaps
from diffnext.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    COLUMNS,
    DIRECTIONS,
    RGB,
    ROWS,
    SHAPES,
    SIZES,
    SPEEDS,
)

SIDE = 64  # pixels at which pictures are judged
CONTRAST = 50.0  # weakest difference from the background that is a thing; of 441, black to white
SECOND = 0.25  # share of the largest part's area from which another part counts as a thing
MESSY = 0.2  # share of the picture that may be neither thing nor background, if that has a name
PRESENT = 0.9  # share of a video's frames that must show something
STRAY = 0.04  # of the side: root mean square distance from a straight way, from which it is none

# The largest distance at which the nearest name still applies; distances as in `_name`.
COLOUR_LIMIT = 95.0
SHAPE_LIMIT = 0.25  # right shapes are at 0.18 at most under the blur, noise and JPEG of the tests
SIZE_LIMIT = 0.3
PLACE_LIMIT = 0.2
DIRECTION_LIMIT = 0.6
SPEED_LIMIT = 0.6
STILL = 0.05  # a shorter way has no direction


@dataclass(frozen=True)
class Seen:
    """What is there. Lengths are fractions of the side."""

    things: int = 0  # connected parts of some size
    names: Mapping[str, str | None] = field(default_factory=dict)  # {} if nothing is there
    margins: Mapping[str, float] = field(default_factory=dict)  # 1 ideal, 0 between two names
    x: float = math.nan  # centre of mass; of a video at its start
    y: float = math.nan
    radius: float = math.nan


@dataclass(frozen=True)
class _Look:
    """One frame's measures, in pixels of SIDE and in RGB of 0..255."""

    background: np.ndarray  # (3,)
    colour: np.ndarray  # (3,)
    overlaps: np.ndarray  # (SHAPES,), see match.overlaps
    radii: np.ndarray  # (SHAPES,)
    x: float
    y: float
    things: int
    messy: float  # share of the pixels that belong neither to the background nor to the thing


def see(pixels: np.ndarray) -> Seen:
    """Look at a picture, uint8 (H, W, 3), or a video, uint8 (T, H, W, 3); H = W from 32 up.

    Raises:
        ValueError: another shape or type.
    """
    size = pixels.shape[-3:-1]
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, wanted uint8 ([T,] H, W, 3)")
    if size[0] != size[1] or size[0] < 32:
        raise ValueError(
            f"pictures are {size[0]} x {size[1]}, wanted square ones from 32 pixels up"
        )
    frames = pixels.reshape(-1, *pixels.shape[-3:])
    looks = [_look(frame) for frame in frames]
    moments = [moment for moment, look in enumerate(looks) if look is not None]
    if len(moments) < PRESENT * len(looks):
        return Seen()
    present = [look for look in looks if look is not None]
    times = np.array(moments) / max(len(looks) - 1, 1)
    return _name(present, times if pixels.ndim == 4 else None)


def _look(picture: np.ndarray) -> _Look | None:
    """Measure one frame; None if nothing stands out."""
    if picture.shape[0] != SIDE:
        picture = np.asarray(
            Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        )
    smooth = _smooth(picture.astype(np.float32))
    background = np.median(smooth[_BORDER], 0)
    difference = smooth - background
    distance = np.linalg.norm(difference, axis=-1)
    strongest = float(np.partition(distance.ravel(), -12)[-12])
    if strongest < CONTRAST:
        return None
    parts = _parts(distance > strongest / 2)
    thing = parts[0]
    way = np.median(difference[core(np.where(thing, distance, 0.0))], 0)
    near = _highest(_highest(thing))
    mask = np.where(near, difference @ way / (way @ way), 0.0)
    area = float(mask.sum())
    if area < 1.0:
        return None  # noise: as much of the opposite colour around as of the thing
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    x, y = float((mask * columns).sum() / area), float((mask * rows).sum() / area)
    things = sum(part.sum() >= SECOND * thing.sum() for part in parts)
    messy = float((distance[~near] > CONTRAST).sum() / distance.size)
    found = overlaps(mask, x, y)
    return _Look(background, background + way, *found, x, y, int(things), messy)


def _name(looks: list[_Look], times: np.ndarray | None) -> Seen:
    """Names for the measures of one frame, or of several at `times` in 0..1."""
    scores = np.mean([look.overlaps for look in looks], 0)
    radius = float(np.median([look.radii[scores.argmax()] for look in looks])) / SIDE
    way = np.array([(look.x, look.y) for look in looks]) / SIDE
    start, velocity = (way[0], None) if times is None else _straight(way, times)
    found = {
        "colour": _nearest_colour([look.colour for look in looks], COLOURS),
        "shape": _nearest(dict(zip(SHAPES, 1 - scores, strict=True)), SHAPE_LIMIT),
        "size": _nearest(_ratios(radius, SIZES), SIZE_LIMIT),
        "place": _place(*start.tolist()),
        "background": _nearest_colour([look.background for look in looks], BACKGROUNDS),
    }
    if np.median([look.messy for look in looks]) > MESSY:
        found["background"] = (None, 0.0)
    if times is not None:
        found |= _motion(velocity)
    return Seen(
        things=int(np.median([look.things for look in looks])),
        names={key: name for key, (name, _) in found.items()},
        margins={key: margin for key, (_, margin) in found.items()},
        x=float(start[0]),
        y=float(start[1]),
        radius=radius,
    )


def _nearest(distances: Mapping[str, float], limit: float) -> tuple[str | None, float]:
    """The nearest name, None beyond `limit`, and the margin: 1 - (nearest / second nearest)."""
    (name, first), (_, second) = sorted(distances.items(), key=lambda item: item[1])[:2]
    return (name if first <= limit else None), 1 - first / max(second, 1e-9)


def _nearest_colour(seen: list[np.ndarray], named: Mapping[str, RGB]) -> tuple[str | None, float]:
    rgb = _opponent(np.median(seen, 0))
    distances = {name: np.linalg.norm(rgb - _opponent(np.array(of))) for name, of in named.items()}
    return _nearest({name: float(far) for name, far in distances.items()}, COLOUR_LIMIT)


def _opponent(rgb: np.ndarray) -> np.ndarray:
    """RGB to brightness (at half weight), red against green, and yellow against blue."""
    red, green, blue = rgb
    return np.array([(red + green + blue) / 6, red - green, (red + green) / 2 - blue])


def _ratios(value: float, named: Mapping[str, float]) -> dict[str, float]:
    return {name: abs(math.log(max(value, 1e-6) / of)) for name, of in named.items()}


def _place(x: float, y: float) -> tuple[str | None, float]:
    row, above = _nearest({name: abs(y - of) for name, of in ROWS.items()}, PLACE_LIMIT)
    column, beside = _nearest({name: abs(x - of) for name, of in COLUMNS.items()}, PLACE_LIMIT)
    if row is None or column is None:
        return None, min(above, beside)
    return f"{row} {column}".strip() or "center", min(above, beside)


def _straight(way: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Start and velocity (2,) of the straight line through (x, y); no velocity if it is not one."""
    basis = np.stack([np.ones_like(times), times], 1)
    (start, velocity), *_ = np.linalg.lstsq(basis, way, rcond=None)
    stray = np.square(basis @ np.stack([start, velocity]) - way).sum(1).mean()
    return start, velocity if math.sqrt(stray) <= STRAY else None


def _motion(velocity: np.ndarray | None) -> dict[str, tuple[str | None, float]]:
    travel = 0.0 if velocity is None else float(np.linalg.norm(velocity))
    if velocity is None or travel < STILL:
        return {"direction": (None, 0.0), "speed": (None, 0.0)}
    turns = {name: math.dist(velocity / travel, of) for name, of in DIRECTIONS.items()}
    return {
        "direction": _nearest(turns, DIRECTION_LIMIT),
        "speed": _nearest(_ratios(travel, SPEEDS), SPEED_LIMIT),
    }


def _smooth(picture: np.ndarray) -> np.ndarray:
    """Weights 1 2 1 over rows and over columns of (H, W, C)."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a bool mask (neighbours by edge or corner), the largest first."""
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = np.where(mask, _highest(numbers), 0)
        if np.array_equal(spread, numbers):
            break
        numbers = spread
    found, sizes = np.unique(numbers[mask], return_counts=True)
    return [numbers == found[i] for i in np.argsort(-sizes, kind="stable")]


def _highest(values: np.ndarray) -> np.ndarray:
    """The highest of each 3 x 3 neighbourhood of (H, W)."""
    padded = np.pad(values, 1)
    rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    return np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


_BORDER = np.ones((SIDE, SIDE), bool)
_BORDER[2:-2, 2:-2] = False
