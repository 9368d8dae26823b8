# SPDX-License-Identifier: Apache-2.0
"""The files of a record folder besides its shards, and how the index of them all is opened."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from diffnext.data.records import checks, index_text
from diffnext.data.records import index as indexing
from diffnext.data.records.base import RecordError
from diffnext.utils.files import write_bytes

METADATA = "METADATA"
JOURNAL = "diffnext.journal.json"  # the types of the fields, while a writer is at work
SAMPLES = "diffnext.samples.jsonl"  # line n: what record n was made of
STRIDE = 256  # lines between two of whose places are kept
SHARD = (".data", checks.CHECK, ".index")  # in the order in which the files of a shard appear
LARGE = 10_000  # records from which reading the text index again costs more than a file beside it


class UnfinishedWarning(UserWarning):
    """The writer of a folder did not finish it, so its last record may be lost."""


@contextlib.contextmanager
def unfinished_ok() -> Iterator[None]:
    """Open folders in this block without a warning that they are not finished."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnfinishedWarning)
        yield


def index_names(path: str) -> list[str]:
    """The text indexes of a folder, in the order that numbers its records."""
    return sorted(name for name in os.listdir(path) if name.endswith(".index"))


def read_json(file: str) -> dict[str, Any] | None:
    """The content of a file; None if there is none.

    Raises:
        RecordError: it is not JSON.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RecordError(f"{file} is not JSON: {error}") from error


def write_json(file: str, content: Mapping[str, Any]) -> None:
    """Replace a file in one step, byte for byte as codewithgpu writes it."""
    write_bytes(file, json.dumps(content, indent=2).encode())


def sample_of(path: str, record: int) -> str:
    """What a record was made of, for messages: "sample KEY of FILE", or "" where nobody wrote it."""
    file = os.path.join(path, SAMPLES)
    try:
        stat = os.stat(file)
        start = _line_starts(file, stat.st_size, stat.st_mtime_ns)[record // STRIDE]
        with open(file, "rb") as stream:
            stream.seek(start)
            entry = json.loads(next(islice(stream, record % STRIDE, None)))
        return f"sample {entry['key']} of {entry['path']}"
    except (OSError, IndexError, StopIteration, ValueError, TypeError, KeyError):
        return ""


@functools.lru_cache(maxsize=8)
def _line_starts(file: str, size: int, mtime_ns: int) -> list[int]:
    """Where each `STRIDE`-th line begins, in bytes, of a file as it is now.

    Checks of a damaged folder ask for many lines of a file that may have millions.
    """
    starts, position = [], 0
    with open(file, "rb") as stream:
        for number, line in enumerate(stream):
            if number % STRIDE == 0:
                starts.append(position)
            position += len(line)
    return starts


def open_index(
    path: str, state: Sequence[list], sizes: Sequence[int], entries: int | None
) -> indexing.Index:
    """Map the index of a folder, or parse it.

    Args:
        path: the folder.
        state: of its text indexes; see `index.text_state`.
        sizes: bytes of each shard.
        entries: how many records METADATA counts; None if the writer did not finish.

    Raises:
        RecordError: an index is damaged, or a shard is shorter than it says.
    """
    index = None if entries is None else indexing.load(path, state)
    if index is not None and len(index) == entries and bool(np.all(index.ends <= sizes)):
        return index
    index = _parse(path, state, sizes, recover=entries is None)
    if entries is not None and len(index) >= LARGE:
        indexing.save(path, index, state)
    return index


def _parse(
    path: str, state: Sequence[list], sizes: Sequence[int], *, recover: bool
) -> indexing.Index:
    shards, dropped, unchecked = [], 0, 0
    for (name, _, _, checked), size in zip(state, sizes, strict=True):
        file = os.path.join(path, name)
        rows, torn = index_text.parse(file, size, recover=recover)
        sums = checks.load(file.removesuffix(".index") + checks.CHECK, len(rows))
        shards.append(np.column_stack([rows.astype(np.uint64), sums]))
        dropped += torn
        unchecked += int(np.sum(sums == 0)) if checked else 0
    index = indexing.from_shards(shards)
    if unchecked:
        warnings.warn(
            f"{path}: {unchecked} records of shards that have checksums have none; they are read "
            "unverified",
            stacklevel=5,
        )
    if recover:
        warnings.warn(
            f"{path} has no METADATA: its writer did not finish. {len(index)} complete records are "
            f"read, {dropped} torn ones are left out",
            UnfinishedWarning,
            stacklevel=5,
        )
    return index
