# SPDX-License-Identifier: Apache-2.0
"""Frames of a video by number: decord where a probe shows that it counts right, PyAV everywhere else.

decord is faster, and silently returns wrong frames for headers that claim more frames than exist, for
edit lists, for program streams and for timestamps that do not increase. PyAV decodes every frame in
order here, so that frame n is the n-th that a player would show.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

REORDERED = 16  # frames that a decoder may hold back; decord can lose them at the end of a file


@dataclass(frozen=True)
class VideoInfo:
    """What the packets and the first frame of a video say."""

    path: str
    height: int  # pixels as shown: turned upright, pixels made square
    width: int
    num_frames: int  # packets that are shown; a damaged file may decode to fewer
    rotation: int  # degrees to turn decoded frames counterclockwise: 0, 90, 180 or 270
    doubt: str  # why decord is not used; "" where it is safe


def probe(path: str) -> VideoInfo:
    """Read all packets and decode the first frame.

    Raises:
        ValueError: not a video, or nothing in it can be decoded.
    """
    with _opened(path) as (container, stream):
        packets, frame = [], None
        for packet in container.demux(stream):
            if frame is None:
                frame = next(iter(packet.decode()), None)
            if packet.size:
                packets.append(packet)
        if frame is None:
            raise ValueError(f"{path}: no frame can be decoded")
        aspect = stream.sample_aspect_ratio or Fraction(1)
        rotation = round(frame.rotation / 90) * 90 % 360
        height, width = frame.height, max(1, round(frame.width * aspect))
        if rotation in (90, 270):
            height, width = width, height
        doubt = _doubt(container, stream, packets, frame)
    if aspect != 1:
        doubt = doubt or f"pixels are {aspect} wide"
    if rotation:
        doubt = doubt or f"turned by {rotation} degrees"
    shown = sum(not packet.is_discard for packet in packets)
    return VideoInfo(path, height, width, shown, rotation, doubt)


def read(info: VideoInfo, frame_ids: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Decode the frames with these numbers and resize them.

    Args:
        frame_ids: increasing numbers of frames in order of presentation.
        size: height and width of the result, as shown.

    Returns:
        (len(frame_ids), height, width, 3) uint8, RGB.

    Raises:
        ValueError: fewer frames than wanted, or a damaged one.
    """
    if not info.doubt and frame_ids[-1] < info.num_frames - REORDERED:
        frames = _read_decord(info, frame_ids, size)
        if frames is not None:
            return frames
    return _read_av(info, frame_ids, size)


def _doubt(container, stream, packets: list, frame: av.VideoFrame) -> str:
    """Say why decord may count or show the frames of a file differently; "" where it does not."""
    codec = stream.codec_context
    if not container.format.name.startswith("mov,mp4") or codec.name != "h264":
        return f"{codec.name} in {container.format.name}"
    if codec.pix_fmt != "yuv420p" or frame.height % 2 or frame.width % 2 or frame.interlaced_frame:
        return f"{frame.width}x{frame.height} {codec.pix_fmt}"
    if any(packet.is_discard or packet.is_corrupt for packet in packets):
        return "an edit list, or damaged packets"
    if len(packets) != stream.frames:
        return f"the header says {stream.frames} frames, there are {len(packets)}"
    times = [packet.pts for packet in packets]
    if None in times or len(set(times)) != len(times) or min(times) != 0:
        return "timestamps missing, repeated, or not from 0"
    return "" if packets[0].is_keyframe else "starts within a group of pictures"


def _read_decord(
    info: VideoInfo, frame_ids: Sequence[int], size: tuple[int, int]
) -> np.ndarray | None:
    """Frames by decord; None where it is not installed, or refuses or miscounts the file."""
    try:
        import decord
    except (ImportError, OSError):
        return None
    try:
        reader = decord.VideoReader(info.path, height=size[0], width=size[1], num_threads=1)
        if len(reader) != info.num_frames:
            return None
        return reader.get_batch(list(frame_ids)).asnumpy()
    except (RuntimeError, decord.DECORDError):
        return None


def _read_av(info: VideoInfo, frame_ids: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Frames by PyAV: decoded from the first on, and only those that are wanted resized."""
    frames: list[np.ndarray] = []
    count = 0
    with _opened(info.path) as (container, stream):
        stream.thread_type = "AUTO"
        for frame in _sound_frames(container, stream):
            if count == frame_ids[len(frames)]:
                frames.append(_upright(frame, info.rotation, size))
            count += 1
            if len(frames) == len(frame_ids):
                return np.stack(frames)
    wanted = frame_ids[-1] + 1
    raise ValueError(f"{info.path}: {count} frames can be decoded, {wanted} are wanted")


def _sound_frames(container, stream) -> Iterator[av.VideoFrame]:
    """Decode all frames; raise where one was damaged, which players patch up and show.

    What comes before the first key frame is passed over: recordings begin anywhere. In transport and
    program streams lost packets leave no other trace than a gap in time.
    """
    stream.codec_context.options = {"err_detect": "explode"}
    started, first, last_s = False, None, None
    rate = stream.guessed_rate if container.format.name in ("mpegts", "mpeg") else None
    for packet in container.demux(stream):
        started = started or packet.is_keyframe
        if not started:
            continue
        if packet.is_corrupt:
            raise ValueError(f"{container.name}: a damaged packet at {packet.pts}")
        for frame in packet.decode():
            first = first or frame
            if rate and None not in (last_s, frame.time) and frame.time - last_s > 3 / rate:
                raise ValueError(f"{container.name}: frames are lost after {last_s:.2f} s")
            last_s = frame.time
            if frame.is_corrupt or (frame.height, frame.width) != (first.height, first.width):
                raise ValueError(
                    f"{container.name}: the frame at {frame.pts} is damaged or resized"
                )
            yield frame


def _upright(frame: av.VideoFrame, rotation: int, size: tuple[int, int]) -> np.ndarray:
    """Resize a frame and turn it. decord filters bilinearly too, so both ways look alike."""
    height, width = size if rotation in (0, 180) else size[::-1]
    pixels = frame.to_ndarray(
        width=width, height=height, format="rgb24", interpolation="BILINEAR"
    )  # (H, W, 3)
    return np.rot90(pixels, rotation // 90)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple]:
    """Open the first video stream that is not cover art; errors of FFmpeg become ValueErrors."""
    try:
        with av.open(path, metadata_errors="ignore") as container:
            for stream in container.streams.video:
                if av.stream.Disposition.attached_pic not in stream.disposition:
                    yield container, stream
                    return
            raise ValueError(f"{path}: no video stream in this file")
    except (av.FFmpegError, IndexError) as error:  # IndexError: packets of a stream not declared
        raise ValueError(f"{path}: {error}") from error
