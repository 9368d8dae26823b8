# SPDX-License-Identifier: Apache-2.0
"""What an autoencoder is trained on: pictures or videos as a pure function of seed, step and place.

B batch, T frame, H W size in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diffnext.data import media
from diffnext.data.location import kind_of
from diffnext.data.sources import Failure, walk
from diffnext.data.views import View
from diffnext.shapes import draw, draw_video, random_scene
from diffnext.utils.logging import logger
from diffnext.utils.mixing import mix

HELDOUT_SHARE = 20  # one file in so many is kept for the measurement


class Source(Protocol):
    """Clips (T, H, W, 3) uint8; T = 1 for a picture. The same arguments give the same clip."""

    def train(self, rng: np.random.Generator, num_frames: int) -> np.ndarray:
        """One clip of the training part, drawn with `rng`."""

    def heldout(self, number: int, num_frames: int) -> np.ndarray:
        """Clip `number` of the part that is never trained on."""

    def num_heldout(self) -> int | None:
        """How many clips are held out; None where they are without end."""


class ShapesSource:
    """The shapes world, drawn when it is asked for.

    Args:
        size: side of the square clips, pixels.
        num_frames: frames of the whole video that shorter clips are cut from.
    """

    def __init__(self, size: int, num_frames: int) -> None:
        self.size = size
        self.num_frames = num_frames

    def train(self, rng: np.random.Generator, num_frames: int) -> np.ndarray:
        return self._draw(rng, "train", num_frames)

    def heldout(self, number: int, num_frames: int) -> np.ndarray:
        return self._draw(np.random.default_rng(mix("heldout", number)), "heldout", num_frames)

    def num_heldout(self) -> None:
        return None

    def _draw(self, rng: np.random.Generator, split: str, num_frames: int) -> np.ndarray:
        if num_frames == 1:
            return draw(random_scene(rng, split), self.size)[None]
        video = draw_video(random_scene(rng, split, video=True), self.size, self.num_frames)
        start = rng.integers(self.num_frames - num_frames + 1)
        return video[start : start + num_frames]


class FolderSource:
    """Pictures, or videos where `num_frames` > 1, below a folder; every twentieth is held out.

    A file that cannot be read is left out with a warning; the next one stands in for it.

    Args:
        folder: searched with all its sub-folders.
        size: the short side is resized to this many pixels, then the centre is cut out.
        num_frames: 1 reads pictures; else videos with at least so many frames are read.

    Raises:
        ValueError: fewer than two readable files.
    """

    def __init__(self, folder: str, size: int, num_frames: int) -> None:
        self.folder = folder
        self.size = size
        self.failures: list[Failure] = []
        self.files = self._find("image" if num_frames == 1 else "video", num_frames)
        if len(self.files) < 2:
            wanted = "pictures" if num_frames == 1 else f"videos of {num_frames} frames or more"
            raise ValueError(
                f"--input {folder} holds {len(self.files)} {wanted}; at least 2 are needed, one to "
                "train on and one to measure with"
            )

    def train(self, rng: np.random.Generator, num_frames: int) -> np.ndarray:
        part = range(self.num_heldout(), len(self.files))
        return self._read(part, int(rng.integers(len(part))), num_frames, rng)

    def heldout(self, number: int, num_frames: int) -> np.ndarray:
        rng = np.random.default_rng(mix("heldout", number))
        return self._read(range(self.num_heldout()), number, num_frames, rng)

    def num_heldout(self) -> int:
        return max(len(self.files) // HELDOUT_SHARE, 1)

    def _find(self, kind: str, num_frames: int) -> list[media.Probe]:
        """The files of a kind, in an order that their names alone decide but that mixes sub-folders."""
        found = []
        paths = walk(self.folder, self.failures)
        for path in sorted(paths, key=lambda path: mix(os.path.relpath(path, self.folder))):
            if kind_of(path) == kind:
                try:
                    found.append(media.probe(path))
                except (OSError, ValueError) as error:
                    self.failures.append(Failure(path, "probe", str(error)))
        for failure in self.failures:
            logger.warning("%s is left out: %s", failure.file, failure.reason)
        return [file for file in found if file.num_frames >= num_frames]

    def _read(
        self, part: range, number: int, num_frames: int, rng: np.random.Generator
    ) -> np.ndarray:
        """A clip of file `number` of a part, or of the first after it, in a circle, that can be read."""
        for ahead in range(len(part)):
            file = self.files[part[(number + ahead) % len(part)]]
            try:
                return self._decode(file, num_frames, rng)
            except (OSError, ValueError) as error:
                self._report(Failure(file.path, "decode", str(error)))
        raise ValueError(
            f"none of {len(part)} files of --input {self.folder} can be decoded, as {file.path}"
        )

    def _report(self, failure: Failure) -> None:
        """Say once that a file is bad."""
        if failure not in self.failures:
            self.failures.append(failure)
            logger.warning("%s is left out: %s", failure.file, failure.reason)

    def _decode(self, file: media.Probe, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        if file.kind == "image":
            return media.read(file, [View(self.size, self.size)])[0]
        start = int(rng.integers(file.num_frames - num_frames + 1))
        frames = tuple(range(start, start + num_frames))
        return media.read(file, [View(self.size, self.size, frames)])[0]


class Batches:
    """Training batches by step, made ahead in threads.

    Args:
        lengths: numbers of frames; a batch has one of them, drawn with its step.
        crop: side of the square that is cut out at random, pixels; 0 keeps the whole.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int,
        lengths: tuple[int, ...] = (1,),
        crop: int = 0,
        workers: int = 2,
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = lengths
        self.crop = crop
        self.workers = workers

    def at(self, step: int) -> Tensor:
        """The batch of a step, (B, 3, T, H, W) float32 in [-1, 1]; (B, 3, H, W) for pictures."""
        num_frames = self._num_frames(step)
        return stack([self._clip(step, i, num_frames) for i in range(self.batch_size)])

    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Batches of steps start to stop - 1, the next ones being made meanwhile."""
        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            ahead = [self._submit(pool, step) for step in range(start, min(start + 2, stop))]
            for step in range(start, stop):
                clips = [future.result() for future in ahead.pop(0)]
                if step + 2 < stop:
                    ahead.append(self._submit(pool, step + 2))
                yield stack(clips)

    def _submit(self, pool: ThreadPoolExecutor, step: int) -> list[Future[np.ndarray]]:
        num_frames = self._num_frames(step)
        return [pool.submit(self._clip, step, i, num_frames) for i in range(self.batch_size)]

    def _num_frames(self, step: int) -> int:
        rng = np.random.default_rng(mix(self.seed, "length", step))
        return self.lengths[int(rng.integers(len(self.lengths)))]

    def _clip(self, step: int, place: int, num_frames: int) -> np.ndarray:
        rng = np.random.default_rng(mix(self.seed, "clip", step, place))
        clip = self.source.train(rng, num_frames)
        if not self.crop:
            return clip
        top, left = (int(rng.integers(side - self.crop + 1)) for side in clip.shape[1:3])
        return clip[:, top : top + self.crop, left : left + self.crop]


def stack(clips: list[np.ndarray]) -> Tensor:
    """Clips (T, H, W, 3) uint8 to (B, 3, T, H, W) in [-1, 1]; without T where that is 1."""
    x = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0
    return x[:, :, 0].contiguous() if x.shape[2] == 1 else x.contiguous()


def open_source(where: str, size: int, num_frames: int) -> Source:
    """The shapes world for "shapes", else the media below a folder."""
    if where == "shapes":
        return ShapesSource(size, num_frames)
    if not os.path.isdir(where):
        raise ValueError(f"--input {where!r} is no folder; give one, or the word shapes")
    return FolderSource(where, size, num_frames)
