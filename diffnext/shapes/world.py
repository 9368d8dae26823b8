# SPDX-License-Identifier: Apache-2.0
"""The shapes world: what can be in a picture, under which names, and how scenes are drawn by lot.

A picture holds one shape on a plain background. Seven attributes with few values each say what is
seen: five of a picture, two more of a video. Each value leaves room for a small random deviation,
so that two pictures of one caption differ, and the deviations of two values never meet.

Lengths are fractions of the picture's side, x to the right and y down from the top left corner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (222, 32, 36),
    "orange": (246, 136, 24),
    "yellow": (246, 220, 40),
    "green": (28, 160, 62),
    "cyan": (50, 205, 225),
    "blue": (32, 70, 222),
    "purple": (130, 40, 182),
    "pink": (248, 128, 194),
}
BACKGROUNDS: dict[str, RGB] = {
    "white": (240, 240, 240),
    "gray": (130, 130, 130),
    "black": (18, 18, 18),
    "brown": (108, 70, 40),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross", "star", "ring")
SIZES: dict[str, float] = {"small": 0.135, "medium": 0.185, "large": 0.24}  # radius
ROWS: dict[str, float] = {"top": 0.28, "": 0.5, "bottom": 0.72}  # y of the shape's centre of mass
COLUMNS: dict[str, float] = {"left": 0.28, "": 0.5, "right": 0.72}  # x of it
PLACES: dict[str, tuple[float, float]] = {
    f"{row} {column}".strip() or "center": (x, y)
    for row, y in ROWS.items()
    for column, x in COLUMNS.items()
}
DIRECTIONS: dict[str, tuple[int, int]] = {
    "right": (1, 0),
    "left": (-1, 0),
    "down": (0, 1),
    "up": (0, -1),
}
SPEEDS: dict[str, float] = {"slowly": 0.14, "quickly": 0.34}  # way from the first to the last frame

PICTURE = ("colour", "shape", "size", "place", "background")
MOTION = ("direction", "speed")
ATTRIBUTES = PICTURE + MOTION
VALUES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "place": tuple(PLACES),
    "background": tuple(BACKGROUNDS),
    "direction": tuple(DIRECTIONS),
    "speed": tuple(SPEEDS),
}
SPLITS = ("train", "heldout")

# How far one scene may be from the values above.
PLACE_JITTER = 0.03
SIZE_JITTER = 0.05  # share of the radius
SPEED_JITTER = 0.05  # share of the way
ANGLE_JITTER = 8.0  # degrees
GAIN_JITTER = 0.05  # share of the brightness
CHANNEL_JITTER = 4.0  # of 255, a channel
MARGIN = 0.01  # a shape keeps this far from the picture's edge

# How far each outline goes from its centre of mass, in radii: see draw.inside.
REACH = {
    "circle": 1.0,
    "square": 0.88 * math.sqrt(2.0),
    "triangle": 1.2,
    "cross": math.hypot(1.0, 0.36),
    "star": 1.2,
    "ring": 1.05,
}


@dataclass(frozen=True)
class Scene:
    """One picture or video: the names of what is seen, and the numbers that a drawing needs."""

    colour: str
    shape: str
    size: str
    place: str  # of a video: where the shape starts
    background: str
    direction: str | None  # None: a picture
    speed: str | None
    x: float  # centre of mass; of a video in its first frame
    y: float
    radius: float
    angle: float  # degrees, clockwise
    rgb: RGB
    background_rgb: RGB
    travel: float  # way from the first to the last frame; 0 for a picture

    def names(self) -> dict[str, str]:
        """Attribute to value, without those that a picture lacks."""
        pairs = ((key, getattr(self, key)) for key in ATTRIBUTES)
        return {key: value for key, value in pairs if value is not None}

    def centre(self, moment: float) -> tuple[float, float]:
        """(x, y) of the shape at `moment`: 0 in the first frame, 1 in the last."""
        dx, dy = DIRECTIONS[self.direction] if self.direction else (0, 0)
        return self.x + dx * self.travel * moment, self.y + dy * self.travel * moment

    def flow(self, frames: int, fps: float) -> float:
        """Speed of the shape in a video of `frames` frames, in the unit of a motion score: pixels of a
        picture of 480 lines per 1/12 s."""
        travel_a_second = self.travel * fps / max(frames - 1, 1)
        return travel_a_second * 480 / 12


def is_heldout(names: Mapping[str, str]) -> bool:
    """Whether this combination of colour, shape and background is kept out of training.

    One combination in seven is. Each pair of two of the three still occurs in training, most of
    them with all but one of the third's values: what is asked of a model is to compose.
    """
    colour = VALUES["colour"].index(names["colour"])
    shape = VALUES["shape"].index(names["shape"])
    background = VALUES["background"].index(names["background"])
    return (colour + 2 * shape + 3 * background) % 7 == 0


def random_names(
    rng: np.random.Generator, split: str = "train", *, video: bool = False
) -> dict[str, str]:
    """Draw what is to be seen, uniform over what the split and the room for motion allow."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, wanted one of {', '.join(SPLITS)}")
    keys = ATTRIBUTES if video else PICTURE
    while True:
        names = {key: VALUES[key][rng.integers(len(VALUES[key]))] for key in keys}
        if is_heldout(names) == (split == "heldout") and has_room(names):
            return names


def has_room(names: Mapping[str, str]) -> bool:
    """Whether the motion stays within the picture from this place; a picture always has room.

    A quick shape starts at the side that it leaves, a slow one there or in the middle.
    """
    if "direction" not in names:
        return True
    dx, dy = DIRECTIONS[names["direction"]]
    x, y = PLACES[names["place"]]
    end = 0.5 + (x - 0.5) * abs(dx) + (y - 0.5) * abs(dy) + (dx + dy) * SPEEDS[names["speed"]]
    return min(ROWS.values()) - 0.05 < end < max(ROWS.values()) + 0.05


def realise(names: Mapping[str, str], rng: np.random.Generator) -> Scene:
    """A scene that shows `names`, with its own small deviations.

    Raises:
        ValueError: an attribute or value is missing or unknown, or a motion has no room.
    """
    check_names(names)
    missing = [key for key in PICTURE if key not in names]
    if missing or ("direction" in names) != ("speed" in names):
        raise ValueError(
            f"a scene needs {PICTURE} and both or none of {MOTION}, found {dict(names)}"
        )
    if not has_room(names):
        raise ValueError(
            f"no room to move {names['direction']} {names['speed']} from {names['place']}"
        )
    radius = SIZES[names["size"]] * (1 + rng.uniform(-SIZE_JITTER, SIZE_JITTER))
    travel = 0.0
    if "speed" in names:
        travel = SPEEDS[names["speed"]] * (1 + rng.uniform(-SPEED_JITTER, SPEED_JITTER))
    dx, dy = DIRECTIONS[names["direction"]] if "direction" in names else (0, 0)
    reach = REACH[names["shape"]] * radius + MARGIN
    x, y = PLACES[names["place"]]
    return Scene(
        **{key: names.get(key) for key in ATTRIBUTES},
        x=_within(x + rng.uniform(-PLACE_JITTER, PLACE_JITTER), reach, dx * travel),
        y=_within(y + rng.uniform(-PLACE_JITTER, PLACE_JITTER), reach, dy * travel),
        radius=radius,
        angle=rng.uniform(-ANGLE_JITTER, ANGLE_JITTER),
        rgb=_tint(COLOURS[names["colour"]], rng),
        background_rgb=_tint(BACKGROUNDS[names["background"]], rng),
        travel=travel,
    )


def random_scene(rng: np.random.Generator, split: str = "train", *, video: bool = False) -> Scene:
    """Draw a scene of a split ("train" or "heldout"), a picture unless `video`."""
    return realise(random_names(rng, split, video=video), rng)


def check_names(names: Mapping[str, str]) -> None:
    """Raise ValueError for an attribute or a value that this world does not have."""
    for key, value in names.items():
        if key not in VALUES:
            raise ValueError(f"unknown attribute {key!r}, wanted one of {', '.join(ATTRIBUTES)}")
        if value not in VALUES[key]:
            raise ValueError(f"unknown {key} {value!r}, wanted one of {', '.join(VALUES[key])}")


def _within(start: float, reach: float, way: float) -> float:
    """Move `start` so that start and start + way are at least `reach` inside 0..1."""
    low, high = reach - min(way, 0.0), 1.0 - reach - max(way, 0.0)
    return float(np.clip(start, low, max(low, high)))


def _tint(rgb: RGB, rng: np.random.Generator) -> RGB:
    gain = 1 + rng.uniform(-GAIN_JITTER, GAIN_JITTER)
    tinted = np.array(rgb) * gain + rng.uniform(-CHANNEL_JITTER, CHANNEL_JITTER, 3)
    red, green, blue = np.clip(np.rint(tinted), 0, 255).astype(int).tolist()
    return red, green, blue
