# SPDX-License-Identifier: Apache-2.0
"""Where the numbers and the samples of a run go: a file of rows, TensorBoard."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import av

from diffnext.utils.logging import logger
from diffnext.utils.metrics import Row, cut_rows

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Writer(Protocol):
    """Where rows go."""

    def write(self, rows: Sequence[Row]) -> None: ...
    def close(self) -> None: ...


class Curves(Writer, Protocol):
    """Where rows are shown as curves, and samples beside them."""

    def show(self, step: int, samples: Sequence[tuple[Path, str]]) -> None:
        """Show .png, .gif or .mp4 files with their captions."""


class JsonlWriter:
    """One JSON object a step, in one file.

    Args:
        path: continued if it exists; rows after `step` belong to work that a resumed run does again,
            and a line that was cut off by a crash is no row: both are dropped.
        step: number of finished steps.
    """

    def __init__(self, path: str | Path, *, step: int = 0) -> None:
        cut_rows(path, step=step)
        self._file = open(path, "ab", buffering=0)
        self._unwritten = b""

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows; where the disk takes none, they wait for the next time: a run does not end for them."""
        self._unwritten += "".join(json.dumps(row) + "\n" for row in rows).encode()
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            waiting = len(self._unwritten)
            logger.warning(f"{waiting} bytes of {self._file.name} wait to be written: {error}")

    def close(self) -> None:
        if self._unwritten:
            self.write([])
        self._file.close()


class TensorBoardWriter:
    """The same numbers as curves.

    Where the disk takes none, rows wait for the next time, which begins a new file: a writer of
    TensorBoard that has failed once fails for ever.

    Args:
        folder: where the event files are written.
        step: number of finished steps; later points of an earlier run are hidden.
    """

    def __init__(self, folder: str | Path, *, step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("--tensorboard needs tensorboard: pip install tensorboard") from error
        self._begin = partial(SummaryWriter, str(folder))
        self._writer = self._begin(purge_step=step + 1)
        self._unwritten: list[Row] = []

    def write(self, rows: Sequence[Row]) -> None:
        self._unwritten += rows
        try:
            self._add_rows()
        except OSError as error:
            self._drop()
            logger.warning(f"{len(self._unwritten)} rows wait for TensorBoard: {error}")

    def _add_rows(self) -> None:
        writer = self._opened()
        for row in self._unwritten:
            for name, value in row.items():
                if name != "step" and value is not None:
                    writer.add_scalar(name, value, row["step"])
        writer.flush()
        self._unwritten = []

    def show(self, step: int, samples: Sequence[tuple[Path, str]]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        writer = self._opened()
        try:
            for path, caption in samples:
                image = Summary.Image(encoded_image_string=_picture(path))
                value = Summary.Value(tag=f"samples/{path.stem} {caption}", image=image)
                writer.file_writer.add_summary(Summary(value=[value]), step)
            writer.flush()
        except OSError:
            self._drop()
            raise

    def close(self) -> None:
        if self._unwritten:
            self.write([])
        self._drop()

    def _opened(self) -> SummaryWriter:
        if self._writer is None:
            self._writer = self._begin()
        return self._writer

    def _drop(self) -> None:
        """Let go of the writer, which may have failed."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError):  # it says once more what it has said
                writer.close()


def _picture(path: Path) -> bytes:
    """A file as a picture, a video as one that moves."""
    if path.suffix != ".mp4":
        return path.read_bytes()
    with av.open(str(path)) as video:
        rate = video.streams.video[0].average_rate
        first, *others = [frame.to_image() for frame in video.decode(video=0)]
    file = io.BytesIO()
    shown = {"duration": round(1000 / rate), "loop": 0}
    first.save(file, "GIF", save_all=True, append_images=others, **shown)
    return file.getvalue()
