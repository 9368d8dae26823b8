# SPDX-License-Identifier: Apache-2.0
"""The shapes world as files: PNG pictures, MP4 videos, JSON beside them, prompts as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffnext.shapes.captions import caption, short_caption
from diffnext.shapes.world import Scene

FPS = 8
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".gif", ".webm", ".mkv")


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W, 3) as a file of the suffix's kind."""
    Image.fromarray(picture).save(path)


def write_video(path: Path, frames: np.ndarray, *, fps: int = FPS) -> None:
    """Write uint8 (T, H, W, 3), H and W even, as H.264 at a quality that keeps the colours."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "8"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def read_pixels(path: Path) -> np.ndarray:
    """Read a picture as uint8 (H, W, 3), a video as uint8 (T, H, W, 3).

    Raises:
        ValueError: a suffix that is neither, or a video without frames.
    """
    if path.suffix.lower() in PICTURES:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    if path.suffix.lower() not in VIDEOS:
        raise ValueError(f"{path} ends in {path.suffix!r}, wanted one of {PICTURES + VIDEOS}")
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    if not frames:
        raise ValueError(f"{path} holds no frames")
    return np.stack(frames)


def sidecar(scene: Scene) -> dict[str, Any]:
    """What stands beside a picture: both captions, and the names of what is seen."""
    return {"caption": caption(scene), "text": short_caption(scene), "scene": scene.names()}


def write_json(path: Path, content: Any) -> None:
    """Write one JSON object."""
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def write_prompts(path: Path, scenes: Iterable[Scene]) -> None:
    """Write a line {"prompt": ..., "scene": {attribute: value}} for each scene."""
    lines = [json.dumps({"prompt": caption(scene), "scene": scene.names()}) for scene in scenes]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines that each have a "prompt".

    Raises:
        ValueError: a line that is no JSON object with a prompt, by its number.
    """
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            wanted = isinstance(entry["prompt"], str)
        except (json.JSONDecodeError, KeyError, TypeError):
            wanted = False
        if not wanted:
            raise ValueError(f'{path}:{number} is {line[:80]!r}, wanted {{"prompt": "..."}}')
        prompts.append(entry)
    return prompts
