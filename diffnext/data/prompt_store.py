# SPDX-License-Identifier: Apache-2.0
"""Embeddings of the texts of a build, each once, in folders of records inside the cache.

They are made before the media are encoded, so that the text encoder is gone by then, and removed with
the folder when the build is done. A process that is killed loses the batch in hand.

    diffnext.prompts/   diffnext.json   the text encoder; the folder of another one is begun anew
                        work-ID/        what several processes are to embed; see prompt_ranks.py
                        p-ID/           what one process embedded: records {data, shape}, and
                            keys.bin    16 bytes a record, in their order: which text it is of
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from diffnext.data.prompt_cache import EMBEDDING, Embedding
from diffnext.data.records import (
    RecordReader,
    open_reader,
    open_writer,
    read_identity,
    write_identity,
)
from diffnext.data.records.layout import unfinished_ok
from diffnext.data.shared_work import folders, remove
from diffnext.utils.files import sync_file

STORE, PART, WORK = "diffnext.prompts", "p-", "work-"
KEYS = "keys.bin"
KEY_BYTES = 16


class PromptStore:
    """The embeddings of a build.

    Args:
        cache: folder of the cache.
        encoder: what makes the embeddings, as the identity of the cache states it; None: take those
            that are there.
    """

    def __init__(self, cache: str, encoder: Mapping[str, Any] | None = None) -> None:
        self.folder = os.path.join(cache, STORE)
        self._readers: list[RecordReader] = []
        self._places: dict[bytes, tuple[RecordReader, int]] = {}
        if encoder is not None and read_identity(self.folder) != encoder:
            self.discard()
            write_identity(self.folder, encoder)
        self.load()

    def __contains__(self, text: str) -> bool:
        return _key(text) in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __call__(self, texts: Sequence[str]) -> dict[str, Embedding]:
        """The embeddings of those texts that have one."""
        places = {text: self._places.get(_key(text)) for text in texts}
        return {text: at[0][at[1]] for text, at in places.items() if at is not None}

    def begin(self) -> PromptPart:
        """A new part to write to; what is in it counts after `load`."""
        return PromptPart(os.path.join(self.folder, f"{PART}{secrets.token_hex(6)}"))

    def load(self) -> None:
        """Look at what there is, by whomever it was made."""
        self._close()
        names = sorted(os.listdir(self.folder)) if os.path.isdir(self.folder) else []
        for name in names:
            if name.startswith(PART):
                self._load_part(os.path.join(self.folder, name))

    def discard(self) -> None:
        """Remove the folder; who embeds for a work that was left in it notices at one moment."""
        self._close()
        for work in folders(self.folder, WORK):
            remove(work)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers, self._places = [], {}

    def _load_part(self, folder: str) -> None:
        try:
            with unfinished_ok():
                reader = open_reader(folder)
            with open(os.path.join(folder, KEYS), "rb") as stream:
                data = stream.read(len(reader) * KEY_BYTES)
        except (FileNotFoundError, ValueError):  # nothing in it yet
            return
        if len(data) < len(reader) * KEY_BYTES:  # the power failed: which text is which, is lost
            return
        self._readers.append(reader)
        for number in range(len(reader)):
            key = data[number * KEY_BYTES : (number + 1) * KEY_BYTES]
            self._places[key] = (reader, number)


class PromptPart:
    """What one process adds to a store; to be closed, or used as a context manager."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._writer = open_writer(folder, EMBEDDING)

    def write(self, batch: Mapping[str, Embedding | None]) -> None:
        """Store the embeddings of texts; a text with None has none.

        Keys go first, so a process that is killed leaves as many as there are records, or more.
        """
        good = {text: value for text, value in batch.items() if value is not None}
        with open(os.path.join(self.folder, KEYS), "ab") as stream:
            stream.write(b"".join(map(_key, good)))
        for value in good.values():
            self._writer.write(value)

    def sync(self) -> None:
        """Bring to the disk what was written, so that other machines see it."""
        for name in os.listdir(self.folder):
            sync_file(os.path.join(self.folder, name))

    def __enter__(self) -> PromptPart:
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()
