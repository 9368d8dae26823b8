# SPDX-License-Identifier: Apache-2.0
"""Scenes to pixels: each shape is a test of points, sampled 4 x 4 times a pixel."""

from __future__ import annotations

import math

import numpy as np

from diffnext.shapes.world import REACH, SHAPES, Scene

SAMPLES = 4  # a pixel and direction


def inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points belong to an upright shape of radius 1 with its centre of mass at the origin.

    Args:
        shape: one of SHAPES.
        u, v: coordinates in radii, to the right and down; any shapes that broadcast.

    Returns:
        bool array of the broadcast shape.
    """
    if shape == "circle":
        return u * u + v * v <= 1.0
    if shape == "ring":
        square = u * u + v * v
        return (square <= REACH["ring"] ** 2) & (square >= 0.58**2)
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.88
    if shape == "cross":
        long, short = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
        return (long <= 1.0) & (short <= 0.36)
    if shape == "triangle":
        along, across = _fold(u, v, 3)
        return along + math.sqrt(3.0) * across <= REACH["triangle"]
    if shape == "star":
        along, across = _fold(u, v, 5)
        dent = 0.54  # radius of the five inner corners
        x, y = dent * math.cos(math.pi / 5), dent * math.sin(math.pi / 5)
        return (along - REACH["star"]) * y <= across * (x - REACH["star"])
    raise ValueError(f"unknown shape {shape!r}, wanted one of {', '.join(SHAPES)}")


def coverage(
    shape: str, x: float, y: float, radius: float, angle: float, size: int
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Share of each pixel that a shape covers.

    Args:
        x, y, radius: fractions of the picture's side. angle: degrees, clockwise. size: pixels.

    Returns:
        float32 (h, w) in [0, 1], and the (rows, columns) of the picture that it stands for.
    """
    reach = REACH[shape] * radius
    rows, columns = (_span(centre, reach, size) for centre in (y, x))
    right = _samples(columns, size)[None, :] - x
    down = _samples(rows, size)[:, None] - y
    cos, sin = math.cos(math.radians(angle)) / radius, math.sin(math.radians(angle)) / radius
    hits = inside(shape, right * cos + down * sin, down * cos - right * sin)
    h, w = rows.stop - rows.start, columns.stop - columns.start
    share = hits.reshape(h, SAMPLES, w, SAMPLES).mean((1, 3), dtype=np.float32)
    return share, (rows, columns)


def draw(scene: Scene, size: int) -> np.ndarray:
    """The picture of a scene, uint8 (size, size, 3); of a moving scene its first frame."""
    return _draw_at(scene, size, 0.0)


def draw_video(scene: Scene, size: int, frames: int) -> np.ndarray:
    """The video of a scene, uint8 (frames, size, size, 3): a straight way at constant speed."""
    moments = np.linspace(0.0, 1.0, frames)
    return np.stack([_draw_at(scene, size, float(moment)) for moment in moments])


def _draw_at(scene: Scene, size: int, moment: float) -> np.ndarray:
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = scene.background_rgb
    x, y = scene.centre(moment)
    share, window = coverage(scene.shape, x, y, scene.radius, scene.angle, size)
    back, front = np.array(scene.background_rgb), np.array(scene.rgb)
    picture[window] = np.rint(back + share[..., None] * (front - back)).astype(np.uint8)
    return picture


def _fold(u: np.ndarray, v: np.ndarray, tips: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn points about the origin and mirror them to the half sector below one tip of `tips`.

    Returns the coordinates along the tip's axis and across it (>= 0); one tip points up.
    """
    distance, angle = np.hypot(u, v), np.arctan2(u, -v)  # from "up"
    sector = 2.0 * math.pi / tips
    angle = np.abs(angle - sector * np.rint(angle / sector))
    return distance * np.cos(angle), distance * np.sin(angle)


def _span(centre: float, reach: float, size: int) -> slice:
    start = math.floor((centre - reach) * size)
    stop = math.ceil((centre + reach) * size)
    return slice(max(start, 0), min(stop, size))


def _samples(span: slice, size: int) -> np.ndarray:
    return (np.arange(span.start * SAMPLES, span.stop * SAMPLES) + 0.5) / (SAMPLES * size)
