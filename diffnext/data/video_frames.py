# SPDX-License-Identifier: Apache-2.0
"""Decodes the frames of a video that are wanted, each known by the time that its packet states.

Decoding begins at the key frame before a wanted frame. From there on each frame must come with the time
that is expected next: one that is lost or damaged is an error, never a neighbour in its place.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, dropwhile, pairwise

import av

from diffnext.data.video_info import VideoInfo, open_video

WORTH_A_SEEK = 8  # frames; fewer are decoded on the way to the next one that is wanted
# A seek may come out too late, in transport and program streams above all: then the file is searched
# from so much earlier, and at last read from its start.
EARLIER_S = (0, 2, 8)

Found = Iterator[tuple[int, av.VideoFrame]]  # numbers and frames


def find_frames(info: VideoInfo, ids: Sequence[int]) -> Found:
    """Decode the frames with these increasing numbers.

    Raises:
        OSError, ValueError: a frame on the way is damaged or does not come.
    """
    if not info.is_timed:
        yield from _pick(_counted(info), list(ids))
        return
    _check_gaps(info, ids)
    with contextlib.ExitStack() as stack:
        opened = None
        for run in split_runs(ids, info.keys):
            key = _key_before(run[0], info.keys)
            if key <= WORTH_A_SEEK:
                yield from _from_start(info, run)
            else:
                opened = opened or stack.enter_context(open_video(info.location))
                yield from _from_key(info, opened, key, run)


def split_runs(ids: Sequence[int], keys: Sequence[int]) -> list[list[int]]:
    """Split increasing numbers where it is worth while to go on from a later key frame."""
    runs: list[list[int]] = []
    for number in ids:
        if runs and _key_before(number, keys) - runs[-1][-1] <= WORTH_A_SEEK:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _key_before(number: int, keys: Sequence[int]) -> int:
    """The last key frame that is not after a frame; 0 where there is none."""
    place = bisect_right(keys, number)
    return keys[place - 1] if place else 0


def _check_gaps(info: VideoInfo, ids: Sequence[int]) -> None:
    """Raise where frames are lost between those that are wanted, so that their numbers mean nothing."""
    times_s = info.times_s[ids[0] : ids[-1] + 1]
    for before_s, after_s in pairwise(times_s) if info.is_stream else ():
        if after_s - before_s > info.longest_s:
            raise ValueError(_lost(info, before_s))


def _lost(info: VideoInfo, after_s: float) -> str:
    return (
        f"{info.path}: frames are lost after {after_s:.2f} s, or there is a pause without sound; if so, "
        "copy its streams into a .mkv"
    )


def _from_start(info: VideoInfo, ids: Sequence[int]) -> Found:
    with open_video(info.location) as (container, stream):
        yield from _pick(_expected(info, _packets(container, stream), 0), list(ids))


def _from_key(info: VideoInfo, opened: tuple, key: int, ids: Sequence[int]) -> Found:
    """Begin at a key frame, or earlier where the seek comes out too late; at last, at the start."""
    container, stream = opened
    wanted = list(ids)
    for earlier_s in EARLIER_S:
        try:
            container.seek(info.pts[key] - round(earlier_s / info.time_base), stream=stream)
            packets = _packets(container, stream)
            landed = next(packets, None)
            if landed is None or landed.pts is None or landed.pts > info.pts[wanted[0]]:
                continue
            number = bisect_left(info.pts, landed.pts)
            if number not in info.keys:  # its time is not the one that it had when all was read
                continue
            yield from _pick(_expected(info, chain([landed], packets), number), wanted)
            return
        except (av.FFmpegError, ValueError):
            continue
    yield from _from_start(info, wanted)


def _pick(found: Found, wanted: list[int]) -> Found:
    """The frames that are wanted; each number is taken from the list before its frame is given."""
    for number, frame in found:
        if number == wanted[0]:
            yield wanted.pop(0), frame
        if not wanted:
            return


def _expected(info: VideoInfo, packets: Iterable[av.Packet], first: int) -> Found:
    """Number frames from `first` on, and check that each has the time of its number.

    What is shown before a key frame but stored behind it leans on frames that were not decoded, and is
    passed over.
    """
    number = first
    for frame in _sound(info, packets):
        if number == first and frame.pts is not None and frame.pts < info.pts[first]:
            continue
        if number == info.num_frames or frame.pts != info.pts[number]:
            raise ValueError(f"{info.path}: a frame is lost at {frame.time} s")
        yield number, frame
        number += 1
    raise ValueError(f"{info.path}: {number} frames can be decoded, {info.num_frames} are declared")


def _counted(info: VideoInfo) -> Found:
    """Number frames as they come, where their times cannot be relied on."""
    number, last_s = 0, None
    with open_video(info.location) as (container, stream):
        for frame in _sound(info, _packets(container, stream)):
            if None not in (last_s, frame.time) and frame.time - last_s > info.longest_s:
                raise ValueError(_lost(info, last_s))
            last_s = frame.time
            yield number, frame
            number += 1
    raise ValueError(f"{info.path}: {number} frames can be decoded, {info.num_frames} are declared")


def _packets(container, stream) -> Iterator[av.Packet]:
    """Packets from the next key frame on."""
    return dropwhile(lambda p: not (p.size and p.is_keyframe), container.demux(stream))


def _sound(info: VideoInfo, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
    """Decode packets; raise where one is damaged, which players patch up and show."""
    for packet in packets:
        if packet.is_corrupt:
            raise ValueError(f"{info.path}: a damaged packet at {packet.pts}")
        for frame in packet.decode():
            if frame.is_corrupt or (frame.height, frame.width) != info.coded:
                raise ValueError(f"{info.path}: the frame at {frame.pts} is damaged or resized")
            yield frame
