# SPDX-License-Identifier: Apache-2.0
"""What is cut out of a medium: the size, the crop, the frames, and whether it is mirrored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

MOST_CUT_OFF = 16  # pixels that are decoded and resized for each one that the crop keeps


@dataclass(frozen=True, slots=True)
class View:
    """One sample as it is cut out of one medium.

    Args:
        height, width: pixels of the result.
        frame_ids: numbers of the frames, from 0 in order of presentation; they never decrease, and
            repeat where a clip is too short or slower than the frame rate asked for. Pictures: (0,).
        flip: mirrored, left to right.
    """

    height: int
    width: int
    frame_ids: tuple[int, ...] = (0,)
    flip: bool = False

    @property
    def num_frames(self) -> int:
        return len(self.frame_ids)

    @property
    def bucket(self) -> tuple[int, int, int]:
        """Frames, height and width: samples that agree in them can share a batch."""
        return self.num_frames, self.height, self.width

    @property
    def num_bytes(self) -> int:
        """Size of its frames: (T, H, W, 3) uint8."""
        return 3 * self.num_frames * self.height * self.width

    def state(self) -> dict[str, Any]:
        """The view as JSON holds it. It is part of the key of a sample, so it must not change."""
        return dict(_state(self))

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> View:
        """The view that `state` came from.

        Raises:
            KeyError, TypeError: not a state.
        """
        ids = state.get("frame_ids")
        if ids is None:
            start, stride = state.get("start", 0), state["frame_stride"]
            ids = range(start, start + state["num_frames"] * stride, stride)
        return View(state["height"], state["width"], tuple(ids), state.get("flip", False))

    def __str__(self) -> str:
        words = f"{self.height}x{self.width} px"
        if self.num_frames > 1 or self.frame_ids[0]:
            words = (
                f"{self.num_frames} frames ({self.frame_ids[0]} to {self.frame_ids[-1]}), {words}"
            )
        return f"{words}, mirrored" if self.flip else words


@lru_cache(maxsize=4096)
def _state(view: View) -> dict[str, Any]:
    """Evenly spaced frames from the first on are written as the caches of version 1 wrote them."""
    state = {"height": view.height, "width": view.width, "num_frames": view.num_frames}
    start, stride = view.frame_ids[0], _stride(view.frame_ids)
    if stride:
        state |= {"frame_stride": stride} | ({"start": start} if start else {})
    else:
        state["frame_ids"] = list(view.frame_ids)
    return state | ({"flip": True} if view.flip else {})


def _stride(ids: tuple[int, ...]) -> int:
    """Distance between neighbours where it is the same everywhere and not 0; else 0."""
    if len(ids) == 1:
        return 1
    stride = ids[1] - ids[0]
    even = stride > 0 and ids == tuple(range(ids[0], ids[0] + stride * len(ids), stride))
    return stride if even else 0


def fitted_size(height: int, width: int, view: View) -> tuple[int, int]:
    """Height and width to resize to: the least that covers the crop, with the shape of the source.

    Where the crop is no wider than the source, in proportion, this scales the short side to that of
    the crop. Both sides are rounded as `int(side * scale + 0.5)`.
    """
    scale = max(view.height / height, view.width / width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def is_enlarged(height: int, width: int, view: View) -> bool:
    """Whether a medium of so many pixels has fewer than are made of it."""
    return fitted_size(height, width, view)[0] > height


def too_narrow(height: int, width: int, view: View) -> str:
    """Say why a medium of so many pixels is too long and narrow for a view; "" if it is not.

    Its long side grows with its short one: of 1 x 3000 pixels, a crop of 1024 x 1024 would need
    1024 x 3072000, which fit no memory, to show three pixels of it.
    """
    high, wide = fitted_size(height, width, view)
    if high * wide <= MOST_CUT_OFF * view.height * view.width:
        return ""
    return (
        f"{height}x{width} px would be resized to {high}x{wide} for a crop of "
        f"{view.height}x{view.width}, more than {MOST_CUT_OFF} times its pixels; cut it to a broader "
        "shape before"
    )


def crop(frames: np.ndarray, view: View) -> np.ndarray:
    """Cut the centre (T, view.height, view.width, 3) out of frames (T, H, W, 3), and mirror it."""
    top = (frames.shape[1] - view.height) // 2
    left = (frames.shape[2] - view.width) // 2
    centre = frames[:, top : top + view.height, left : left + view.width]
    return centre[:, :, ::-1] if view.flip else centre
