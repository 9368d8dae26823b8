# SPDX-License-Identifier: Apache-2.0
"""Pictures and videos by their kind: what is known of one, and the views that are cut out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffnext.data import images, video
from diffnext.data.location import Location, of_path
from diffnext.data.views import View, crop, fitted_size, too_narrow

RULE = "short side to size, int(side * scale + 0.5), centre crop; pictures lanczos, videos bilinear"
"""The rule of `read` in words; it stands in the identity of a cache and changes when the pixels do."""


@dataclass(frozen=True)
class Probe:
    """What is known of a medium before it is decoded."""

    location: Location
    kind: str  # "image" or "video"
    height: int  # pixels as shown: turned upright, pixels made square
    width: int
    num_frames: int  # 1 for a picture
    video: video.VideoInfo | None = None

    @property
    def path(self) -> str:
        """The location in words."""
        return str(self.location)


def probe(where: Location | str) -> Probe:
    """Read sizes from the head of a picture, or from the packets of a video.

    Raises:
        OSError, ValueError: a medium that cannot be read; the message says why.
    """
    location = of_path(where) if isinstance(where, str) else where
    if location.kind == "image":
        return Probe(location, "image", *images.size(location), 1)
    info = video.probe(location)
    return Probe(location, "video", info.height, info.width, info.num_frames, info)


def read(medium: Probe, views: Sequence[View]) -> list[np.ndarray]:
    """Decode a picture or a video once, and cut each view out of it.

    Returns:
        For each view (T, height, width, 3) uint8, RGB; T = 1 for a picture.

    Raises:
        OSError, ValueError: a file that cannot be decoded, is too short, or is no more than a line.
    """
    for view in views:
        if reason := too_narrow(medium.height, medium.width, view):
            raise ValueError(reason)
    return _read_picture(medium, views) if medium.video is None else _read_video(medium, views)


def _read_picture(medium: Probe, views: Sequence[View]) -> list[np.ndarray]:
    picture = images.load(medium.location)
    if (picture.height, picture.width) != (medium.height, medium.width):
        raise ValueError(
            f"{medium.path}: its head says {medium.height}x{medium.width} px, it decodes to "
            f"{picture.height}x{picture.width}: EXIF that turns it stands behind the pixels, or the "
            "head lies; save it anew"
        )
    resized: dict[tuple[int, int], np.ndarray] = {}
    cuts = []
    for view in views:
        size = fitted_size(picture.height, picture.width, view)
        if size not in resized:
            resized[size] = images.resize(picture, size)[None]
        cuts.append(crop(resized[size], view))
    return cuts


def _read_video(medium: Probe, views: Sequence[View]) -> list[np.ndarray]:
    """Views of one size share their frames: each is resized and held once."""
    sizes = [fitted_size(medium.height, medium.width, view) for view in views]
    wanted: dict[tuple[int, int], set[int]] = {size: set() for size in sizes}
    for view, size in zip(views, sizes, strict=True):
        wanted[size].update(view.frame_ids)
    ids = {size: sorted(numbers) for size, numbers in wanted.items()}
    frames = video.read_sizes(medium.video, ids)
    return [
        crop(_rows(frames[size], np.searchsorted(ids[size], view.frame_ids)), view)
        for view, size in zip(views, sizes, strict=True)
    ]


def _rows(frames: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some of the frames; all of them, as a rule, which need no copy."""
    return frames if np.array_equal(rows, np.arange(len(frames))) else frames[rows]
