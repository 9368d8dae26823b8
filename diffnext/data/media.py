# SPDX-License-Identifier: Apache-2.0
"""What is cut out of a picture or a video before it is encoded: size, crop, frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffnext.data import images, video

# fmt: off
IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".jp2", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"
)
VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"
)
# fmt: on
MOST_CUT_OFF = 16  # pixels that are decoded and resized for each one that the crop keeps
RULE = "short side to size, int(side * scale + 0.5), centre crop; pictures lanczos, videos bilinear"
"""The rule of `read` in words; it stands in the identity of a cache and changes when the pixels do."""


@dataclass(frozen=True)
class Cut:
    """The part of each medium that is encoded.

    Args:
        height, width: pixels of the result.
        num_frames: frames of a video; pictures have one.
        frame_stride: distance between two of them, in frames of the video.
    """

    height: int
    width: int
    num_frames: int = 1
    frame_stride: int = 1

    @property
    def frame_ids(self) -> range:
        """Numbers of the frames that are taken from a video, from 0 in order of presentation."""
        return range(0, self.span, self.frame_stride)

    @property
    def span(self) -> int:
        """Number of frames that a video must have."""
        return (self.num_frames - 1) * self.frame_stride + 1


@dataclass(frozen=True)
class Probe:
    """What is known of a medium before it is decoded."""

    path: str
    kind: str  # "image" or "video"
    height: int  # pixels as shown: turned upright, pixels made square
    width: int
    num_frames: int  # 1 for a picture
    video: video.VideoInfo | None = None


def kind_of(path: str) -> str | None:
    """Return "image", "video", or None for a file of another type; by the suffix of its name."""
    suffix = Path(path).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else None


def probe(path: str) -> Probe:
    """Read sizes from the head of a picture, or from the packets of a video.

    Raises:
        OSError, ValueError: a file that cannot be read; the message says why.
    """
    if kind_of(path) == "image":
        return Probe(path, "image", *images.size(path), 1)
    info = video.probe(path)
    return Probe(path, "video", info.height, info.width, info.num_frames, info)


def read(medium: Probe, cut: Cut) -> np.ndarray:
    """Decode, resize and crop a picture or a video.

    Returns:
        (T, height, width, 3) uint8, RGB; T = 1 for a picture, `cut.num_frames` for a video.

    Raises:
        OSError, ValueError: a file that cannot be decoded, is too short, or is no more than a line.
    """
    if reason := too_narrow(medium, cut):
        raise ValueError(reason)
    if medium.video is None:
        picture = images.load(medium.path)
        size = fitted_size(picture.height, picture.width, cut)
        return crop(images.resize(picture, size)[None], cut)
    size = fitted_size(medium.height, medium.width, cut)
    return crop(video.read(medium.video, cut.frame_ids, size), cut)


def fitted_size(height: int, width: int, cut: Cut) -> tuple[int, int]:
    """Height and width to resize to: the least that covers the crop, with the shape of the source.

    Where the crop is no wider than the source, in proportion, this scales the short side to that of
    the crop. Both sides are rounded as `int(side * scale + 0.5)`.
    """
    scale = max(cut.height / height, cut.width / width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def too_narrow(medium: Probe, cut: Cut) -> str:
    """Say why a medium is too long and narrow to be cut; "" if it is not.

    Its long side grows with its short one: of 1 x 3000 pixels, a crop of 1024 x 1024 would need
    1024 x 3072000, which fit no memory, to show three pixels of it.
    """
    height, width = fitted_size(medium.height, medium.width, cut)
    if height * width <= MOST_CUT_OFF * cut.height * cut.width:
        return ""
    return (
        f"{medium.height}x{medium.width} px would be resized to {height}x{width} for a crop of "
        f"{cut.height}x{cut.width}, more than {MOST_CUT_OFF} times its pixels; cut it to a broader "
        "shape before"
    )


def crop(frames: np.ndarray, cut: Cut) -> np.ndarray:
    """Cut the centre (T, cut.height, cut.width, 3) out of frames (T, H, W, 3)."""
    top = (frames.shape[1] - cut.height) // 2
    left = (frames.shape[2] - cut.width) // 2
    return frames[:, top : top + cut.height, left : left + cut.width]
