# SPDX-License-Identifier: Apache-2.0
"""Which shape a soft mask shows: overlap with templates, whatever its place, size and blur."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from diffnext.shapes.draw import inside
from diffnext.shapes.world import ANGLE_JITTER, SHAPES

CELLS = 32  # of a template's side
EXTENT = 1.6  # a template shows -EXTENT..EXTENT, in radii
FINE = 8  # points a cell and direction when a template is drawn
ANGLES = np.linspace(-ANGLE_JITTER, ANGLE_JITTER, 5)
BLURS = (0.08, 0.18, 0.3)  # standard deviation, in radii


class Template(NamedTuple):
    """One shape, radius 1, at all ANGLES and one blur."""

    masks: np.ndarray  # (ANGLES, CELLS, CELLS) in [0, 1]
    area: float  # sum of a mask before values above 1 are cut, in squared radii


def overlaps(mask: np.ndarray, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """How well each shape explains a mask, at the size that has the mask's area.

    Args:
        mask: (H, W), how much of each pixel is covered; 1 is the median of its `core`. Not empty.
        x, y: its centre of mass in pixels.

    Returns:
        Overlap (SHAPES,), the sum of minima over the sum of maxima for the best angle and blur: 1
        is the same, 0 is disjoint. Radius (SHAPES,) of that template in pixels.
    """
    best = [max(_compare(mask, x, y, shape)) for shape in SHAPES]
    overlap, radius = np.array(best).T
    return overlap, radius


def core(values: np.ndarray) -> np.ndarray:
    """The inner half of what is above half of the highest value, as a bool mask.

    Blur lowers thin parts everywhere. The median of the core is the level that a blurred shape is
    measured by, in pictures and in templates alike.
    """
    inner = values > values.max() / 2
    return inner & (values >= np.median(values[inner]))


def _compare(mask: np.ndarray, x: float, y: float, shape: str) -> list[tuple[float, float]]:
    found = []
    area = float(mask.sum())
    for template in _templates(shape):
        radius = math.sqrt(area / template.area)
        seen = _resample(mask.clip(0.0, 1.0), x, y, radius)
        common = np.minimum(template.masks, seen).sum((1, 2))
        joined = np.maximum(template.masks, seen).sum((1, 2))
        found.append((float((common / joined).max()), radius))
    return found


@lru_cache(maxsize=len(SHAPES))
def _templates(shape: str) -> tuple[Template, ...]:
    """The templates of a shape, one for each of BLURS."""
    axis = _axis(CELLS * FINE)
    v, u = axis[:, None], axis[None, :]
    sharp = []
    for angle in np.radians(ANGLES):
        cos, sin = np.cos(angle), np.sin(angle)
        hits = inside(shape, u * cos + v * sin, v * cos - u * sin)
        sharp.append(hits.reshape(CELLS, FINE, CELLS, FINE).mean((1, 3)))
    return tuple(_template(np.stack(sharp), _blur(blur)) for blur in BLURS)


def _template(sharp: np.ndarray, blur: np.ndarray) -> Template:
    soft = blur @ sharp @ blur.T
    soft /= np.median(soft[0][core(soft[0])])
    cell = (2 * EXTENT / CELLS) ** 2
    return Template(soft.clip(0.0, 1.0), float(soft[0].sum() * cell))


def _blur(deviation: float) -> np.ndarray:
    """(CELLS, CELLS) matrix of a Gaussian filter."""
    axis = _axis(CELLS)
    weights = np.exp(-0.5 * ((axis[:, None] - axis[None, :]) / deviation) ** 2)
    return weights / weights[CELLS // 2].sum()


def _axis(count: int) -> np.ndarray:
    return ((np.arange(count) + 0.5) / count * 2 - 1) * EXTENT


def _resample(mask: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """The mask in a template's coordinates, (CELLS, CELLS), by linear interpolation; 0 outside."""
    offset = _axis(CELLS) * radius - 0.5  # from a pixel's edge to its centre
    rows, columns = (_hat(centre + offset, n) for centre, n in zip((y, x), mask.shape, strict=True))
    return rows @ mask @ columns.T


def _hat(positions: np.ndarray, count: int) -> np.ndarray:
    """(len(positions), count) weights of linear interpolation between `count` samples."""
    return np.clip(1 - np.abs(positions[:, None] - np.arange(count)[None, :]), 0, 1)
