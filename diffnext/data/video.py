# SPDX-License-Identifier: Apache-2.0
"""Videos as arrays: the frames with given numbers, upright and resized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import av
import numpy as np

from diffnext.data import video_info
from diffnext.data.location import Location, of_path
from diffnext.data.video_frames import find_frames
from diffnext.data.video_info import VideoInfo

__all__ = ["VideoInfo", "probe", "read", "read_sizes"]

Size = tuple[int, int]  # height and width, pixels as shown


def probe(where: Location | str) -> VideoInfo:
    """Read all packets of a video and decode its first frame.

    Raises:
        OSError, ValueError: not a video, or its first frame cannot be decoded.
    """
    return video_info.probe(of_path(where) if isinstance(where, str) else where)


def read(info: VideoInfo, frame_ids: Sequence[int], size: Size) -> np.ndarray:
    """Decode the frames with these numbers and resize them: `read_sizes` for one size."""
    return read_sizes(info, {size: frame_ids})[size]


def read_sizes(info: VideoInfo, wanted: Mapping[Size, Sequence[int]]) -> dict[Size, np.ndarray]:
    """Decode frames once and resize each to the sizes it is wanted in.

    Args:
        wanted: for each size the numbers of frames in order of presentation, which never decrease.

    Returns:
        For each size (len(frame_ids), height, width, 3) uint8, RGB.

    Raises:
        OSError, ValueError: fewer frames than wanted, or a damaged one on the way to them.
    """
    ids = sorted({number for numbers in wanted.values() for number in numbers})
    if ids[-1] >= info.num_frames:
        raise ValueError(
            f"{info.path}: {info.num_frames} frames can be decoded, {ids[-1] + 1} are wanted"
        )
    results = {size: np.empty((len(n), *size, 3), np.uint8) for size, n in wanted.items()}
    scalers = {size: _Scaler(info, size) for size in wanted}
    for number, frame in find_frames(info, ids):
        for size, numbers in wanted.items():
            rows = np.flatnonzero(np.equal(numbers, number))
            if len(rows):
                results[size][rows] = scalers[size](frame)
    return results


class _Scaler:
    """Resizes frames bilinearly and turns them upright.

    FFmpeg's filter is used as players and decord use it, which gives the same numbers as they do; the
    plain scaler of the same library places the samples of colour differently.
    """

    def __init__(self, info: VideoInfo, size: Size) -> None:
        self.quarters, self.mirrored = info.rotation // 90, info.mirrored
        self.height, self.width = size if info.rotation in (0, 180) else size[::-1]
        self._format = ""
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if frame.format.name != self._format:
            self._format, self._graph = frame.format.name, self._made_for(frame)
        self._graph.push(frame)
        picture = self._graph.pull().to_ndarray()
        return np.rot90(picture[::-1] if self.mirrored else picture, self.quarters)  # (H, W, 3)

    def _made_for(self, frame: av.VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        shape = {"width": frame.width, "height": frame.height}
        source = graph.add_buffer(format=frame.format, time_base=frame.time_base, **shape)
        scale = graph.add("scale", f"{self.width}:{self.height}:flags=bilinear:threads=1")
        graph.link_nodes(source, scale, graph.add("format", "rgb24"), graph.add("buffersink"))
        graph.configure()
        return graph
