# SPDX-License-Identifier: Apache-2.0
"""Pictures and videos for a benchmark of builds, of a size that takes as long to decode as to encode."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image

from diffnext.data.decoding import Order, decode
from diffnext.data.encoding import Encoder
from diffnext.data.location import File
from diffnext.data.views import View
from diffnext.shapes import files
from diffnext.shapes.draw import draw, draw_video
from diffnext.shapes.world import random_scene

FRAMES = {"image": 1, "video": 17}
GRAIN = 6.0  # of the noise that is laid over drawn pictures, so that they decode like photographs
DIFFERENT = 8  # media that are drawn; the others are copies
LARGEST = 1024  # pixels of their side


def draw_media(folder: Path, args: argparse.Namespace) -> str:
    """Fill a folder with captioned pictures, or videos. Returns its name."""
    folder.mkdir()
    drawn: list[bytes] = []
    for number in range(args.count):
        path = folder / f"{number:06d}{'.mp4' if args.kind == 'video' else '.jpg'}"
        path.with_suffix(".txt").write_text(f"Number {number} of a benchmark.")
        if number < DIFFERENT:
            draw_medium(path, number, args.size)
            drawn.append(path.read_bytes())
        else:
            path.write_bytes(drawn[number % DIFFERENT])
    return str(folder)


def draw_medium(path: Path, number: int, size: int) -> None:
    """Write a picture or a video."""
    rng = np.random.default_rng(number)
    scene = random_scene(rng, video=path.suffix == ".mp4")
    if path.suffix == ".mp4":
        files.write_video(path, draw_video(scene, size, FRAMES["video"]))
        return
    pixels = draw(scene, size) + rng.normal(0, GRAIN, (size, size, 3))
    PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)


def even_size(folder: Path, args: argparse.Namespace, encoder: Encoder) -> int:
    """The size of media that takes a worker as long as a sample takes the autoencoder, up to `LARGEST`.

    Both are measured here; the time of decoding goes with the pixels of the medium.
    """
    frames, side, size = FRAMES[args.kind], args.resolution, 4 * args.resolution
    batch = np.zeros((args.batch_size, frames, side, side, 3), np.uint8)
    view = View(side, side, tuple(range(frames)))
    path = folder / f"medium{'.mp4' if args.kind == 'video' else '.jpg'}"
    for _ in range(2):  # once more near the size that is wanted
        draw_medium(path, 0, size)
        location = File(str(path))
        work = partial(decode, Order(location, (view,), location.stamp(), hashed=True))
        encoding = best(partial(encoder, batch)) / args.batch_size * args.workers
        size = max(side, round(size * (encoding / best(work)) ** 0.5 / 16) * 16)
        size = min(size, LARGEST)
    return size


def best(work: Callable[[], object]) -> float:
    """The least seconds that something takes, of what fits into a second and of two at least."""
    seconds: list[float] = []
    while sum(seconds) < 1 or len(seconds) < 2:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
