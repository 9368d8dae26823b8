# SPDX-License-Identifier: Apache-2.0
"""The text index of a shard: one line "offset size" a record, bytes."""

from __future__ import annotations

import numpy as np

from diffnext.data.records.base import RecordError


def parse(path: str, data_bytes: int, *, recover: bool) -> tuple[np.ndarray, int]:
    """Parse the lines of a text index.

    Args:
        path: the file.
        data_bytes: size of the shard that it describes.
        recover: the writer did not finish: leave out a torn last line, and records that lack bytes.

    Returns:
        (n, 2) int64, and how many records were left out.

    Raises:
        RecordError: a line is not two numbers, records overlap, or the shard is too short.
    """
    with open(path, "rb") as stream:
        text = stream.read()
    dropped = 0
    if recover and text and not text.endswith(b"\n"):
        text, dropped = text[: text.rfind(b"\n") + 1], 1
    rows = _numbers(text, path)
    ends = rows[:, 0] + rows[:, 1]
    if recover:
        whole = int(np.searchsorted(np.maximum.accumulate(ends), data_bytes, "right"))
        dropped += len(rows) - whole
        rows, ends = rows[:whole], ends[:whole]
    _check_rows(rows, ends, path, data_bytes)
    return rows, dropped


def _numbers(text: bytes, path: str) -> np.ndarray:
    lines = text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
    if text.translate(None, b"0123456789 \r\n"):
        raise _bad_line(text, path)
    values = np.fromstring(text, np.int64, sep=" ") if text.strip() else np.empty(0, np.int64)
    if len(values) != 2 * lines:
        raise _bad_line(text, path)
    return values.reshape(-1, 2)


def _bad_line(text: bytes, path: str) -> RecordError:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if len(words) != 2 or not all(word.isdigit() for word in words):
            return RecordError(f"{path} line {number} is {line!r}, wanted 'offset size'")
    return RecordError(f"{path} is not lines of 'offset size'")


def _check_rows(rows: np.ndarray, ends: np.ndarray, path: str, data_bytes: int) -> None:
    data = path.removesuffix(".index") + ".data"
    overlap = np.flatnonzero(rows[1:, 0] < ends[:-1])
    if len(overlap):
        i = int(overlap[0]) + 1
        raise RecordError(
            f"{path} line {i + 1} puts record {i} at byte {rows[i, 0]}, but record {i - 1} ends at "
            f"{ends[i - 1]}: the index is damaged"
        )
    beyond = np.flatnonzero(ends > data_bytes)
    if len(beyond):
        i = int(beyond[0])
        raise RecordError(
            f"{data} has {data_bytes} bytes, but its record {i} ends at byte {ends[i]} by {path} "
            f"line {i + 1}: the shard is truncated ({len(rows) - i} records of it cannot be read)"
        )
    if len(rows) and int(rows[:, 1].max()) > np.iinfo(np.uint32).max:
        raise RecordError(
            f"{path} has a record of {rows[:, 1].max()} bytes; the format ends at 2 GiB"
        )
