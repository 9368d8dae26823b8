# SPDX-License-Identifier: Apache-2.0
"""Which views of a medium come into a cache: its size by its shape, its frames by number or by time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffnext.data import media
from diffnext.data.location import Location
from diffnext.data.media import Probe
from diffnext.data.views import View, is_enlarged, too_narrow

SAME_TIME_S = 1e-6  # times that differ by less are the same

Size = tuple[int, int]  # height and width


@dataclass(frozen=True, slots=True)
class Chosen:
    """The views of a medium, and why it has no more of them."""

    height: int  # of the medium, in pixels as shown
    width: int
    views: tuple[View, ...] = ()
    dropped: tuple[str, ...] = ()  # for reasons of choice
    failed: tuple[str, ...] = ()  # for what is wrong with it
    unused: int = 0  # frames that could be taken and are in no view


@dataclass(frozen=True)
class ViewRules:
    """What a build asks of every medium.

    Args:
        sizes: for each resolution the sizes that it has; of these a medium gets the one whose shape
            is nearest to its own.
        num_frames: lengths of videos; a clip gets the longest that it fills. 1 is for pictures alone.
        frame_stride: distance between two frames that are taken, in frames of the clip (at the rate
            of `fps`, if there is one).
        fps: frames a second, the nearest in time to each tick; None: the frames as they are.
        windows: parts that are taken from a long clip at most: evenly spaced, none overlapping another;
            one begins at the first frame. None: as many as fit.
        flip: a mirrored sample beside each.
        pad: clips that are too short for every length get the shortest, with the last frame repeated.
        upscale: media with fewer pixels than a size are enlarged.
    """

    sizes: tuple[tuple[Size, ...], ...]
    num_frames: tuple[int, ...] = (1,)
    frame_stride: int = 1
    fps: float | None = None
    windows: int | None = 1
    flip: bool = False
    pad: bool = False
    upscale: bool = True

    def choose(self, medium: Probe) -> Chosen:
        """The views of one medium."""
        frames, unused, reason = self._frames(medium)
        if reason:
            return Chosen(medium.height, medium.width, dropped=(reason,))
        views, dropped, failed = [], [], []
        for sizes in self.sizes:
            size = nearest_size(medium.height, medium.width, sizes)
            if reason := too_narrow(medium.height, medium.width, View(*size)):
                failed.append(reason)
            elif not self.upscale and is_enlarged(medium.height, medium.width, View(*size)):
                dropped.append(f"smaller than {size[0]}x{size[1]} px")
            else:
                views += [View(*size, ids, flip) for ids in frames for flip in self._flips()]
        unique = tuple(dict.fromkeys(views))
        return Chosen(medium.height, medium.width, unique, tuple(dropped), tuple(failed), unused)

    def _flips(self) -> tuple[bool, ...]:
        return (False, True) if self.flip else (False,)

    def _frames(self, medium: Probe) -> tuple[list[tuple[int, ...]], int, str]:
        """The frames of each window, how many are in none, or why there are no windows."""
        if medium.kind == "image":
            if 1 in self.num_frames:
                return [(0,)], 0, ""
            return [], 0, f"a picture, and --num-frames is {_words(self.num_frames)}"
        lengths = sorted((length for length in self.num_frames if length > 1), reverse=True)
        if not lengths:
            return [], 0, "a video, and --num-frames is 1"
        ticks = self._ticks(medium)
        for length in lengths:
            if len(ticks) >= length:
                found = windows(ticks, length, self.windows)
                return found, len(ticks) - length * len(found), ""
        if self.pad and len(ticks):
            return [(*ticks, *[ticks[-1]] * (lengths[-1] - len(ticks)))], 0, ""
        return [], 0, self._too_short(lengths[-1])

    def _ticks(self, medium: Probe) -> Sequence[int]:
        """Numbers of the frames that can be taken, in order."""
        if self.fps is None:
            return range(0, medium.num_frames, self.frame_stride)
        return resample(medium.video.times_s, self.fps)[:: self.frame_stride]

    def _too_short(self, length: int) -> str:
        span = (length - 1) * self.frame_stride + 1
        return f"fewer than {span} frames" + (f" at {self.fps:g} a second" if self.fps else "")


def examine(order: tuple[Location, ViewRules]) -> Chosen:
    """Probe a medium and choose its views; of one argument, for a worker.

    Raises:
        OSError, ValueError: it cannot be probed.
    """
    location, rules = order
    return rules.choose(media.probe(location))


def nearest_size(height: int, width: int, sizes: Sequence[Size]) -> Size:
    """Of several sizes, the one whose shape differs least, by the ratio of the aspect ratios."""
    return min(sizes, key=lambda size: abs(math.log(size[1] * height / (size[0] * width))))


def aspect_sizes(area: int, ratios: Sequence[str], multiple: int) -> tuple[Size, ...]:
    """Sizes of about `area` pixels, one for each aspect ratio.

    Args:
        ratios: width to height, as in "16:9".
        multiple: pixels that each side is a multiple of; sides are rounded to the nearest.
    """
    sizes = []
    for ratio in ratios:
        wide, high = map(float, ratio.split(":"))
        exact = math.sqrt(area * high / wide), math.sqrt(area * wide / high)
        sizes.append(tuple(max(1, round(side / multiple)) * multiple for side in exact))
    return tuple(dict.fromkeys(sizes))


def windows(ticks: Sequence[int], length: int, most: int | None = None) -> list[tuple[int, ...]]:
    """Cut at least one window and at most `most` out of no fewer than `length` ticks.

    They are spread evenly from the first tick to the last, and none overlaps another; one alone
    begins at the first.
    """
    count = len(ticks) // length
    if most is not None:
        count = min(count, most)
    room = len(ticks) - length
    starts = [number * room // max(1, count - 1) for number in range(count)]
    return [tuple(ticks[start : start + length]) for start in starts]


def resample(times_s: Sequence[float], fps: float) -> list[int]:
    """Numbers of the frames that are nearest in time to 0, 1 / fps, 2 / fps, ... seconds.

    This goes on for as long as the clip is shown; its last frame is taken to be shown for as long as
    most are. Of two frames at the same distance the earlier is taken.

    Args:
        times_s: when each frame appears, from 0 on, in order.
    """
    times = np.asarray(times_s, np.float64)
    if len(times) < 2:
        return [0] * len(times)
    end_s = times[-1] + np.median(np.diff(times))
    wanted = np.arange(math.ceil((end_s - SAME_TIME_S) * fps)) / fps
    after = np.searchsorted(times, wanted).clip(1, len(times) - 1)
    is_later = times[after] - wanted < wanted - times[after - 1] - SAME_TIME_S
    return np.where(is_later, after, after - 1).tolist()


def _words(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
