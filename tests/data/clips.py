# SPDX-License-Identifier: Apache-2.0
"""Video clips whose frames carry their own number, so that a wrong frame is seen whatever decoded it."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

BITS, BAR = 8, 16  # eight vertical bars, black or white, of 16 pixels
HEIGHT, WIDTH = 48, BITS * BAR


def package_file(package: str, name: str) -> str:
    """Path of a file that an installed package carries; the package itself is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    path = Path(spec.origin).parent / name
    if not path.is_file():
        pytest.skip(f"this release of {package} has no {name}")
    return str(path)


def numbered(number: int) -> np.ndarray:
    """A frame (48, 128, 3) that shows `number` in binary, the highest bit on the left."""
    bits = [(number >> (BITS - 1 - bit)) & 1 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 255, BAR)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)))


def numbers(frames: np.ndarray) -> list[int]:
    """Read the numbers of frames (T, H, W, 3) of any size."""
    bars = np.array_split(frames.mean(axis=(1, 3)), BITS, axis=1)
    bits = np.stack([bar[:, 1:-1].mean(axis=1) > 127 for bar in bars], axis=1)
    return (bits @ (1 << np.arange(BITS)[::-1])).tolist()


def write_clip(
    path: Path,
    count: int = 100,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    mux: dict[str, str] | None = None,
    rotation: int = 0,
    times: Sequence[int] | None = None,
) -> str:
    """Encode frames 0 to count - 1; `times` are their timestamps in units of 1 / 1000 s."""
    with av.open(str(path), "w", options=mux or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def set_matrix(path: str, a: float, b: float, c: float, d: float) -> None:
    """Let an mp4 file show what lies at (x, y) at (a x + c y, b x + d y)."""
    data = bytearray(Path(path).read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, times and numbers, layers
    sides = [round(value * 2**16) for value in (a, b, 0, c, d, 0, 0, 0)]
    data[at : at + 36] = struct.pack(">9i", *sides, 2**30)
    Path(path).write_bytes(data)


def cut_start(path: str, frames: int, *, timescale_per_frame: int) -> None:
    """Let the edit list of an mp4 file begin `frames` later; the frames before stay in the file."""
    data = bytearray(Path(path).read_bytes())
    at = data.index(b"elst") + 4 + 4 + 4 + 4  # version and flags, number of entries, duration
    start = int.from_bytes(data[at : at + 4], "big") + frames * timescale_per_frame
    data[at : at + 4] = start.to_bytes(4, "big")
    Path(path).write_bytes(data)


def write_stream(path: Path, times: Sequence[int], *, sound: bool) -> str:
    """A transport stream of frames at these times, in 1 / 1000 s, perhaps with sound all along."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"bf": "2", "g": "12"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode()
        if sound:
            rate, size = 48_000, 1024
            track = container.add_stream("aac", rate=rate, layout="mono")
            for start in range(0, (times[-1] + 500) * rate // 1000, size):
                samples = av.AudioFrame.from_ndarray(
                    np.zeros((1, size), np.float32), "fltp", "mono"
                )
                samples.rate, samples.pts = rate, start
                packets += track.encode(samples)
            packets += track.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return str(path)
