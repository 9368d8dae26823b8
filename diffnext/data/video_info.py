# SPDX-License-Identifier: Apache-2.0
"""What the packets of a video say: which frames are shown, and when, without decoding more than one."""

from __future__ import annotations

import contextlib
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np

from diffnext.data.location import Location

STREAMS = ("mpegts", "mpeg")  # where lost packets leave no other trace than a gap in time
# Not every packet of a program stream states its time; the others get one from what was read before
# them, so that behind a seek they get a wrong one.
UNSEEKABLE = ("mpeg",)
MOST_LOST = 3  # frame times between two frames of a stream; more are lost packets, or a pause
MOST_SILENT = 3  # usual distances of packets of sound; more are lost packets
REORDERED = 16  # places that a frame may be stored away from where it is shown
# Titles and the like may be in any encoding; PyAV 19 takes them as they are, and knows no option.
_LENIENT = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}


@dataclass(frozen=True)
class VideoInfo:
    """What the packets and the first frame of a video say."""

    location: Location
    height: int  # pixels as shown: turned upright, pixels made square
    width: int
    num_frames: int  # that are shown; a damaged file may decode to fewer
    rotation: int  # degrees to turn decoded frames counterclockwise: 0, 90, 180 or 270
    mirrored: bool  # before that, they are turned upside down
    coded: tuple[int, int]  # height and width of a decoded frame, pixels
    time_base: Fraction  # seconds
    rate: Fraction  # frames a second, as the file says
    is_stream: bool  # one of STREAMS
    pts: Sequence[int] | None  # times of the frames, increasing; None: only their order is known
    keys: Sequence[int]  # increasing numbers of the frames that a seek can find; none in UNSEEKABLE
    is_timed: bool  # decoded frames carry these times, and can be sought by them
    is_heard: bool = False  # of a stream with gaps: sound goes on through each, so it is a pause

    @property
    def path(self) -> str:
        """The location in words."""
        return str(self.location)

    @property
    def times_s(self) -> np.ndarray:
        """When each frame is shown, (num_frames,) float64 seconds from the first; by `rate` without pts."""
        if self.pts is None:
            return np.arange(self.num_frames) / float(self.rate)
        return (np.array(self.pts, np.int64) - self.pts[0]) * float(self.time_base)

    @property
    def longest_s(self) -> float:
        """Seconds between two frames above which some are lost."""
        may_lack = self.is_stream and not self.is_heard
        return MOST_LOST / float(self.rate) if may_lack else float("inf")


@contextlib.contextmanager
def open_video(location: Location) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open the first video stream that is not cover art.

    Raises:
        OSError, ValueError: there is none. Errors of FFmpeg become ValueErrors until it is closed.
    """
    handle = location.handle()
    try:
        with av.open(handle, **_LENIENT) as container:
            for stream in container.streams.video:
                if av.stream.Disposition.attached_pic not in stream.disposition:
                    if stream.codec_context is None:
                        raise ValueError(f"{location}: FFmpeg has no decoder for its video")
                    stream.codec_context.options = {"err_detect": "explode"}
                    stream.codec_context.thread_count = 1  # least work; many are decoded at once
                    yield container, stream
                    return
            raise ValueError(f"{location}: no video stream in this file")
    except (av.FFmpegError, IndexError) as error:  # IndexError: packets of a stream not declared
        raise ValueError(f"{location}: {error}") from error
    finally:
        if not isinstance(handle, str):
            handle.close()


def probe(location: Location) -> VideoInfo:
    """Read all packets and decode the first frame.

    Raises:
        OSError, ValueError: not a video, or its first frame cannot be decoded.
    """
    with open_video(location) as (container, stream):
        packets, first = _packets_and_frame(container, stream)
        if first is None:
            raise ValueError(f"{location}: no frame can be decoded")
        rotation, mirrored = _turn(first, location)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        height, width = first.height, max(1, round(first.width * aspect))
        if rotation in (90, 270):
            height, width = width, height
        shown = [packet for packet in packets if not packet.is_discard]
        pts = _times(shown, first)
        is_timed = pts is not None and not _are_of_decoding(shown, stream)
        can_seek = is_timed and container.format.name not in UNSEEKABLE
        pts = pts or _times_of_decoding(shown)
        info = VideoInfo(
            location,
            height,
            width,
            len(shown if pts is None else pts),
            rotation,
            mirrored,
            coded=(first.height, first.width),
            time_base=stream.time_base,
            rate=stream.guessed_rate or stream.average_rate or Fraction(25),
            is_stream=container.format.name in STREAMS,
            pts=pts,
            keys=_key_frames(packets, pts) if can_seek else (),
            is_timed=is_timed,
        )
    if info.is_stream and pts and not any(packet.is_corrupt for packet in packets):
        return replace(info, is_heard=_is_heard(info))
    return info


def _is_heard(info: VideoInfo) -> bool:
    """Whether sound goes on wherever there is no frame for long: what is lost is lost of both.

    Counters of packets cannot tell it: they begin anew after 16, and every 16th loss passes them.
    """
    times_s = np.array(info.pts, np.float64) * float(info.time_base)
    gaps = np.flatnonzero(np.diff(times_s) > info.longest_s)
    sound_s = _sound(info) if len(gaps) else []
    first = np.searchsorted(sound_s, times_s[gaps], "right") - 1  # the last before a gap
    last = np.searchsorted(sound_s, times_s[gaps + 1])  # and the first after it
    if not len(sound_s) or first.min() < 0 or last.max() == len(sound_s):
        return False
    steps = np.diff(sound_s)
    most = min(MOST_SILENT * np.median(steps), info.longest_s)
    return all(steps[a:b].max() <= most for a, b in zip(first, last, strict=True))


def _sound(info: VideoInfo) -> list[float]:
    """The times of the packets of sound, in order, seconds; none where there is no sound."""
    with open_video(info.location) as (container, _):
        packets = container.demux(container.streams.audio[:1]) if container.streams.audio else ()
        return sorted(float(p.pts * p.time_base) for p in packets if p.size and p.pts is not None)


def _turn(first: av.VideoFrame, location: Location) -> tuple[int, bool]:
    """Degrees to turn a frame counterclockwise, and whether it is turned upside down before that."""
    quarters = round(first.rotation / 90)
    if abs(first.rotation - 90 * quarters) > 1:
        raise ValueError(
            f"{location}: its frames are to be turned by {first.rotation} degrees; multiples of 90 "
            "are known, turn it and save it anew"
        )
    found = first.side_data.get("DISPLAYMATRIX")
    if found is None:
        return 0, False
    a, b, _, c, d, *_ = struct.unpack("9i", bytes(found))  # x' = a x + c y, y' = b x + d y
    return quarters * 90 % 360, a * d < b * c


def _packets_and_frame(container, stream) -> tuple[list[av.Packet], av.VideoFrame | None]:
    """All packets from the first key frame on, and the first frame; recordings begin anywhere."""
    packets, first = [], None
    for packet in container.demux(stream):
        if packet.size and (packets or packet.is_keyframe):
            packets.append(packet)
        if packets and first is None:
            first = next(iter(packet.decode()), None)
    return packets, first


def _times(shown: list[av.Packet], first: av.VideoFrame) -> Sequence[int] | None:
    """The times of the frames in order; None where they do not say the order of the frames.

    They do not if some are missing or not distinct, or if they begin anew in the middle of the file.
    """
    stored = [packet.pts for packet in shown]
    if None in stored or first.pts is None or len(set(stored)) < len(stored):
        return None
    order = np.argsort(stored, kind="stable")
    if np.abs(order - np.arange(len(order))).max(initial=0) > REORDERED:
        return None
    return _compact([time for time in sorted(stored) if time >= first.pts])


def _times_of_decoding(shown: list[av.Packet]) -> Sequence[int] | None:
    """When frames are decoded, which tells how long each is shown, as of AVI; None where it does not."""
    stored = [packet.dts for packet in shown]
    if None in stored or any(before >= after for before, after in pairwise(stored)):
        return None
    return _compact(stored)


def _are_of_decoding(shown: list[av.Packet], stream) -> bool:
    """Whether packets carry times in the order of decoding though the codec reorders, as in AVI."""
    delays = {packet.pts - packet.dts for packet in shown if packet.dts is not None}
    return stream.codec_context.has_b_frames and len(delays) < 2


def _key_frames(packets: list[av.Packet], pts: Sequence[int]) -> Sequence[int]:
    """Numbers of the frames shown first when decoding begins at each key frame."""
    times = [packet.pts for packet in packets if packet.is_keyframe and packet.pts is not None]
    return _compact(sorted({bisect_left(pts, time) for time in times if time <= pts[-1]}))


def _compact(numbers: list[int]) -> Sequence[int]:
    """A range where the distances are equal, which takes no memory; else an array."""
    if len(numbers) < 2:
        return tuple(numbers)
    even = range(numbers[0], numbers[-1] + 1, numbers[1] - numbers[0])
    return even if list(even) == numbers else array("q", numbers)
