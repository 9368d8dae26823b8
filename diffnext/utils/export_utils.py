# SPDX-License-Identifier: Apache-2.0
"""Write pictures and videos to files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

Frames = np.ndarray | Sequence[np.ndarray | Image.Image]


def export_to_image(image: np.ndarray | Image.Image, output_image_path: str | None = None) -> str:
    """Write one picture; the suffix says the format.

    Args:
        image: (H, W, 3) uint8, or a Pillow picture.
        output_image_path: None for a new temporary .png.

    Returns:
        The path.
    """
    path = _path(output_image_path, ".png")
    picture = image if isinstance(image, Image.Image) else Image.fromarray(_frame(image, 0))
    picture.save(path)
    return path


def export_to_video(
    video_frames: Frames, output_video_path: str | None = None, fps: float = 12
) -> str:
    """Write one video: H.264 in .mp4, or an animated .gif.

    Args:
        video_frames: (T, H, W, 3) uint8, or a sequence of frames.
        output_video_path: ends in .mp4 or .gif; None for a new temporary .mp4.
        fps: frames a second.

    Returns:
        The path.

    Raises:
        ValueError: another suffix, no frames, or frames that are not uint8 of one shape.
    """
    path = _path(output_video_path, ".mp4")
    frames = [_frame(frame, i) for i, frame in enumerate(video_frames)]
    shapes = sorted({frame.shape for frame in frames})
    if len(shapes) != 1:
        raise ValueError(
            f"video has frames of shapes {shapes}; one or more of one shape are wanted"
        )
    suffix = Path(path).suffix.lower()
    if suffix == ".gif":
        _write_gif(frames, path, fps)
    elif suffix == ".mp4":
        _write_mp4(frames, path, fps)
    else:
        raise ValueError(f"video path {path!r} ends in {suffix!r}; .mp4 or .gif is wanted")
    return path


def _path(path: str | None, suffix: str) -> str:
    if path is not None:
        return str(path)
    with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
        return file.name


def _frame(frame: np.ndarray | Image.Image, index: int) -> np.ndarray:
    array = np.asarray(frame)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"frame {index} is {array.dtype} {array.shape}; uint8 (height, width, 3) is wanted"
        )
    return array


def _write_gif(frames: Sequence[np.ndarray], path: str, fps: float) -> None:
    pictures = [Image.fromarray(frame) for frame in frames]
    duration_ms = round(1000 / fps)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration_ms, loop=0)


def _write_mp4(frames: Sequence[np.ndarray], path: str, fps: float) -> None:
    height, width = frames[0].shape[:2]
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        # players take pictures of even size alone; an odd edge is repeated once
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "17"}
        for frame in frames:
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
