# SPDX-License-Identifier: Apache-2.0
"""The record folder as a storage: the format of codewithgpu, byte for byte.

Beside METADATA, 00000.data, 00000.index, ... lie files that codewithgpu ignores: `diffnext.json`
says what made the records, 00000.check, ... hold the checksums, `diffnext.index.bin` is the index as
arrays, and `diffnext.journal.json` is there while a writer is at work or was killed.
"""

from __future__ import annotations

import os

from diffnext.data.records.base import STORAGES, Storage
from diffnext.data.records.folder_reader import FolderReader
from diffnext.data.records.folder_writer import FolderWriter
from diffnext.data.records.layout import METADATA, index_names


def detect(path: str) -> bool:
    """Whether the folder holds such records."""
    return bool(index_names(path)) or os.path.exists(os.path.join(path, METADATA))


STORAGES.register("record_folder")(Storage(detect, FolderReader, FolderWriter))
