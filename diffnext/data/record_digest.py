# SPDX-License-Identifier: Apache-2.0
"""Which records a dataset holds, in a few short numbers: a run goes on with the same ones alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from xxhash import xxh3_64

from diffnext.data.datasets import JoinedReader, SelectedReader
from diffnext.data.records import RecordReader
from diffnext.data.records.folder_reader import FolderReader

WHOLE = 1 << 24  # records that are all looked at; their entries in the index take 200 MB
PIECE = 1 << 16  # records that are looked at together


def digest_of(reader: RecordReader, chosen: np.ndarray | None = None) -> dict[str, Any]:
    """The same for two datasets of the same records in the same order, wherever they lie.

    What is read is the index, not the records: their lengths, and the checksums of their bytes. Which
    shards they lie in makes no difference. Of more than `WHOLE` records, as many in evenly
    spaced pieces are looked at: a record that is left out moves all behind it.

    Args:
        chosen: (n,) numbers of the records that count; None: all.

    Returns:
        "sizes" and "sums", hexadecimal, the latter None where records have no checksum; "joined", the
        same of a dataset that is joined to this one. Empty for a store that has no such index.
    """
    if isinstance(reader, SelectedReader):
        return digest_of(reader.source, reader.chosen if chosen is None else reader.chosen[chosen])
    if isinstance(reader, JoinedReader):
        first, second = (digest_of(part, chosen) for part in (reader.first, reader.second))
        return {**first, "joined": second}
    if not isinstance(reader, FolderReader):
        return {}
    index, count = reader.index, len(reader) if chosen is None else len(chosen)
    sizes, sums = xxh3_64(), None if index.sums is None else xxh3_64()
    for start in _starts(count):
        piece = slice(start, start + PIECE)
        rows = piece if chosen is None else chosen[piece]
        sizes.update(index.size[rows])
        if sums is not None:
            part = index.sums[rows]
            sums.update(part)
            sums = sums if part.all() else None
    return {"sizes": sizes.hexdigest(), "sums": None if sums is None else sums.hexdigest()}


def _starts(count: int) -> list[int]:
    """Where the pieces begin that are looked at: all, or some from the first one to the last."""
    if count <= WHOLE:
        return list(range(0, count, PIECE))
    return np.linspace(0, count - PIECE, WHOLE // PIECE).astype(np.int64).tolist()
