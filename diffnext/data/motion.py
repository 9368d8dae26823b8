# SPDX-License-Identifier: Apache-2.0
"""How much moves in a clip: the mean length of its optical flow, for the field `flow` of a record.

The unit is pixels of a picture whose short side is 480, per 1/12 s, whatever the size and the frame
rate of the clip: 5, the default of NOVA, is an eighth of the short side in a second. The field is
OpenCV's dense inverse search (DIS, preset medium) between frames about 1/12 s apart, at a short side
of 192 pixels. On a picture that is pushed along it is right to 2 % up to a tenth of the short side
from one frame to the next; what moves faster is measured too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

UNIT_SIDE = 480  # pixels
UNIT_S = 1 / 12  # seconds
SIDE = 192  # pixels of the short side where the flow is computed
PAIRS = 16  # of frames, spread over the clip; 3 ms each
RULE = "mean length of DIS flow, preset medium, short side 192; px of 480 lines per 1/12 s"
"""The rule in words; it stands in the identity of a cache and changes when the scores do."""
SLACK = 0.9  # of UNIT_S: timestamps are rounded


def motion_score(frames: np.ndarray, times_s: Sequence[float]) -> float:
    """Mean length of the optical flow of a clip; 0 if it has one frame, or shows one only.

    Args:
        frames: (T, H, W, 3) uint8, RGB.
        times_s: (T,) seconds at which they are shown, not decreasing.

    Raises:
        ValueError: OpenCV is not installed.
    """
    cv2 = load_opencv()
    field = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    lengths = []
    for first, second in frame_pairs(times_s):
        before, after = (_gray(cv2, frames[i]) for i in (first, second))
        flow = field.calc(before, after, None)  # (h, w, 2) pixels
        length = float(np.hypot(flow[..., 0], flow[..., 1]).mean()) / min(before.shape)
        lengths.append(length / (times_s[second] - times_s[first]))
    return float(np.mean(lengths)) * UNIT_SIDE * UNIT_S if lengths else 0.0


def frame_pairs(times_s: Sequence[float]) -> list[tuple[int, int]]:
    """At most `PAIRS` pairs of frames, one after the other, each about `UNIT_S` apart or the least."""
    places = [0]
    for place, time_s in enumerate(times_s):
        if time_s > times_s[places[-1]] and time_s - times_s[places[-1]] >= SLACK * UNIT_S:
            places.append(place)
    if len(places) == 1 and times_s[-1] > times_s[0]:  # shorter than that as a whole
        places.append(len(times_s) - 1)
    pairs = list(pairwise(places))
    if len(pairs) <= PAIRS:
        return pairs
    return [pairs[i * len(pairs) // PAIRS] for i in range(PAIRS)]


def has_opencv() -> bool:
    """Whether scores can be computed here: OpenCV may be there and lack a library of the system."""
    try:
        load_opencv()
    except ValueError:
        return False
    return True


def load_opencv() -> Any:
    """OpenCV on one thread: the decode workers are what runs side by side.

    Raises:
        ValueError: it cannot be imported; the message says why, and what to install.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            f"a motion score needs OpenCV ({error}): pip install diffnext[motion], or "
            "opencv-python-headless"
        ) from error
    cv2.setNumThreads(1)
    return cv2


def _gray(cv2: Any, frame: np.ndarray) -> np.ndarray:
    """Brightness (h, w) uint8 of a frame, `SIDE` pixels on its short side."""
    height, width = frame.shape[:2]
    scale = SIDE / min(height, width)
    size = (max(SIDE, round(width * scale)), max(SIDE, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, size, interpolation=method)
