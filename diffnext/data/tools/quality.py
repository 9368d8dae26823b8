# SPDX-License-Identifier: Apache-2.0
"""Records decoded again, beside what they were made of: pictures to look at, and PSNR."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from diffnext.data.decoding import LIMIT_S, Decoded, Order, decode_ahead
from diffnext.data.journal import Entry
from diffnext.data.parse import moments
from diffnext.data.progress import Progress, silent
from diffnext.data.records import Record
from diffnext.data.tools.finding import locate
from diffnext.data.tools.opening import Cache
from diffnext.data.worker import WorkError
from diffnext.utils.moments import split_moments

PEAK = 255.0
Decode = Callable[[np.ndarray], np.ndarray]  # means (C, T, H, W) float16 -> (T', H', W', 3) uint8


class Decoder:
    """Latents to pixels by an autoencoder that is on its device and in its precision."""

    def __init__(self, vae: Any, *, video: bool) -> None:
        weight = next(vae.parameters())
        self.vae, self.video = vae, video
        self.device, self.dtype = weight.device, weight.dtype

    @torch.no_grad()
    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """Decode raw latents (C, T, H, W) of one sample. Returns uint8 (T', H', W', 3)."""
        z = torch.from_numpy(latents.astype(np.float32))[None].to(self.device, self.dtype)
        x = self.vae.decode(z if self.video else z[:, :, 0]).sample[0].float().cpu()
        pixels = x.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).numpy()
        frames = pixels if self.video else pixels[:, None]  # (3, T', H', W')
        return frames.transpose(1, 2, 3, 0)


@dataclass(frozen=True)
class Seen:
    """A record that was looked at.

    Args:
        row: its number.
        psnr: of all frames, in dB; infinite where nothing differs; None: there is no source.
        note: why not; "" if there is one.
        picture: source and reconstruction, (H, W, 3) uint8; of a video the first, middle and last
            frame of each, one row above the other.
    """

    row: int
    shape: tuple[int, ...]
    caption: str
    source: str
    psnr: float | None
    note: str
    picture: np.ndarray


@dataclass
class Gallery:
    """The worst of what was looked at, and the PSNR of all.

    Args:
        most: pictures that are kept.
    """

    most: int
    psnr: list[float] = field(default_factory=list)  # dB, of those that have a source
    count: int = 0
    _kept: list[tuple[float, int, Seen]] = field(default_factory=list)

    def add(self, seen: Seen) -> None:
        self.count += 1
        if seen.psnr is not None:
            self.psnr.append(seen.psnr)
        badness = -math.inf if seen.psnr is None else -seen.psnr
        heapq.heappush(self._kept, (badness, -seen.row, seen))
        if len(self._kept) > self.most:
            heapq.heappop(self._kept)

    def worst_first(self) -> list[Seen]:
        """Lowest PSNR first; those without a source last."""
        return [seen for *_, seen in sorted(self._kept, key=lambda kept: (-kept[0], -kept[1]))]


def look_at(
    cache: Cache,
    rows: Sequence[int],
    decode: Decode,
    *,
    most: int = 64,
    workers: int = 0,
    limit_s: float = LIMIT_S,
    progress: Progress = silent,
) -> Gallery:
    """Decode records and what they were made of.

    Args:
        rows: numbers of records, rising.
        most: pictures that are kept, the worst ones.
        workers: processes that decode the sources; 0 does it here, without a time limit.

    Raises:
        DamagedRecord: of a record that cannot be read.
    """
    gallery = Gallery(most)
    sources = _sources(cache, rows, workers, limit_s)
    for row, entry, found in progress(sources, len(rows), "show"):
        record = cache.reader[row]
        values = moments(record)  # (2C, T, H, W)
        frames = decode(split_moments(values)[0])
        gallery.add(_seen(row, record, entry, found, frames))
    return gallery


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 arrays of one shape, in dB."""
    error = np.mean(np.square(one.astype(np.float32) - other), dtype=np.float64)
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def sheet(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Lay tiles (H, W, 3) out in rows on white; about as wide as high."""
    height = max(tile.shape[0] for tile in tiles)
    width = max(tile.shape[1] for tile in tiles)
    columns = max(1, round(math.sqrt(len(tiles) * height / width)))
    rows = math.ceil(len(tiles) / columns)
    page = np.full((rows * (height + 2), columns * (width + 2), 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (height + 2), number % columns * (width + 2)
        page[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return page


def _sources(
    cache: Cache, rows: Sequence[int], workers: int, limit_s: float
) -> Iterator[tuple[int, Entry | None, np.ndarray | str]]:
    """Number and entry of each record with the frames of its source, or why there are none."""
    missing: list[tuple[int, Entry | None, str]] = []

    def orders() -> Iterator[tuple[tuple[int, Entry], Order]]:
        for row, entry in _chosen(cache, rows):
            try:
                location = locate(entry)
                yield (row, entry), Order(location, (entry.view,), location.stamp(), hashed=True)
            except (OSError, ValueError) as error:
                missing.append((row, entry, str(error)))

    if not cache.has_journal:
        yield from ((row, None, "no journal names the source") for row in rows)
        return
    for (row, entry), outcome in decode_ahead(orders(), workers=workers, limit_s=limit_s):
        yield row, entry, _frames(entry, outcome)
    yield from missing


def _chosen(cache: Cache, rows: Sequence[int]) -> Iterator[tuple[int, Entry]]:
    wanted = set(rows)
    last = max(wanted, default=-1)
    for row, entry in enumerate(itertools.islice(cache.entries(), last + 1)):
        if row in wanted:
            yield row, entry


def _frames(entry: Entry, outcome: Decoded | WorkError) -> np.ndarray | str:
    if isinstance(outcome, WorkError):
        return str(outcome)
    if outcome.content != entry.content:
        return "the file was edited since"
    return outcome.clips[0]


def _seen(
    row: int,
    record: Record,
    entry: Entry | None,
    found: np.ndarray | str,
    frames: np.ndarray,
) -> Seen:
    if not isinstance(found, str) and found.shape != frames.shape:
        found = f"the source gives {found.shape}, the latents {frames.shape}"
    without = isinstance(found, str)
    return Seen(
        row,
        tuple(record["shape"]),
        caption_of(record),
        "" if entry is None else entry.path,
        None if without else psnr(found, frames),
        found if without else "",
        _picture([frames] if without else [found, frames]),
    )


def _picture(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures side by side; of videos three frames each, one row above the other."""
    strips = []
    for clip in clips:
        chosen = sorted({0, len(clip) // 2, len(clip) - 1})
        strips.append(np.concatenate([clip[number] for number in chosen], axis=1))
    return np.concatenate(strips, axis=0 if len(clips[0]) > 1 else 1)


def caption_of(record: Mapping[str, Any]) -> str:
    """A few words that say what a record is of."""
    words = record.get("words", ())  # where caption and text are embeddings
    for value in (*map(record.get, ("text", "caption", "label")), *words):
        if isinstance(value, str | int) and value != "":
            return str(value)
    return ""
