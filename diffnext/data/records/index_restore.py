# SPDX-License-Identifier: Apache-2.0
"""Brings text indexes back that are lost or damaged, by the binary copy of them all."""

from __future__ import annotations

import os

import numpy as np

from diffnext.data.records import index as indexing
from diffnext.data.records.layout import METADATA, read_json
from diffnext.utils.files import write_bytes


def restore(path: str) -> list[str]:
    """Write those text indexes of a finished folder anew that are not what the binary copy says.

    Nothing is done where it may speak of an earlier state of the folder: it must have its checksum,
    know as many records as METADATA counts, and name the shards that are there.

    Returns:
        The names of the files that were written.

    Raises:
        RecordError: METADATA is damaged.
    """
    metadata = read_json(os.path.join(path, METADATA))
    head, index = indexing.load_any(path)
    if metadata is None or index is None or len(index) != metadata["entries"]:
        return []
    names = [name for name, *_ in head["state"]]
    shards = sorted(name for name in os.listdir(path) if name.endswith(".data"))
    if shards != [name.removesuffix(".index") + ".data" for name in names]:
        return []
    return [name for number, name in enumerate(names) if _write(path, name, index, number)]


def _write(path: str, name: str, index: indexing.Index, number: int) -> bool:
    """Write the text index of one shard, if it is another one now."""
    part = slice(int(index.first[number]), int(index.first[number + 1]))
    rows = np.column_stack([index.offset[part], index.size[part]]).tolist()
    text = "".join(f"{offset} {size}\n" for offset, size in rows).encode()
    file = os.path.join(path, name)
    if os.path.exists(file):
        with open(file, "rb") as stream:
            if stream.read() == text:
                return False
    write_bytes(file, text)
    return True
