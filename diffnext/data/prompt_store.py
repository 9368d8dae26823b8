# SPDX-License-Identifier: Apache-2.0
"""Embeddings of the texts of a build, each once, in a folder of records inside the cache.

They are made before the media are encoded, so that the text encoder is gone by then, and removed with
the folder when the build is done. A process that is killed loses the batch in hand.

    diffnext.prompts/   a folder of records: {data, shape}
                        diffnext.json   the text encoder; the folder of another one is begun anew
                        keys.bin        16 bytes a record, in their order: which text it is of
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffnext.data.prompt_cache import EMBEDDING, Embedding
from diffnext.data.records import open_reader, open_writer, read_identity, write_identity

STORE = "diffnext.prompts"
KEYS = "keys.bin"
KEY_BYTES = 16


class PromptStore:
    """The embeddings of a build.

    Args:
        cache: folder of the cache.
        encoder: what made the embeddings, as the identity of the cache states it; None: take those
            that are there.
    """

    def __init__(self, cache: str, encoder: Mapping[str, Any] | None = None) -> None:
        self.folder = os.path.join(cache, STORE)
        self._keys: dict[bytes, int] = {}
        self._reader = None
        self._load()
        if encoder is not None and not self._is_of(encoder):
            self.discard()
            write_identity(self.folder, encoder)

    def __contains__(self, text: str) -> bool:
        return _key(text) in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __call__(self, texts: Sequence[str]) -> dict[str, Embedding]:
        """The embeddings of those texts that have one."""
        numbers = {text: self._keys.get(_key(text)) for text in texts}
        return {text: self._reader[n] for text, n in numbers.items() if n is not None}

    def add(self, batches: Iterable[Mapping[str, Embedding | None]]) -> None:
        """Store embeddings, batch by batch; a text with None has none."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a killed build left: to go on is the purpose
            writer = open_writer(self.folder, EMBEDDING, append=True)
        with writer:
            for batch in batches:
                good = {text: value for text, value in batch.items() if value is not None}
                self._append([_key(text) for text in good])
                for value in good.values():
                    writer.write(value)
        self._load()

    def discard(self) -> None:
        """Remove the folder."""
        if self._reader is not None:
            self._reader.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._keys, self._reader = {}, None

    def _append(self, keys: list[bytes]) -> None:
        """Write keys down, before their records: as many too many are there as were not finished."""
        with open(os.path.join(self.folder, KEYS), "ab") as stream:
            stream.truncate(len(self._keys) * KEY_BYTES)
            stream.write(b"".join(keys))
            stream.flush()
            os.fsync(stream.fileno())
        for key in keys:
            self._keys[key] = len(self._keys)

    def _load(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._reader = open_reader(self.folder)
        except (FileNotFoundError, ValueError):  # nothing in it yet
            self._reader = None
            return
        self._keys = self._read_keys(len(self._reader))

    def _is_of(self, encoder: Mapping[str, Any]) -> bool:
        """Whether the folder is of this encoder, and whole: power that failed may have cost keys."""
        records = 0 if self._reader is None else len(self._reader)
        return read_identity(self.folder) == encoder and len(self._keys) == records

    def _read_keys(self, most: int) -> dict[bytes, int]:
        try:
            with open(os.path.join(self.folder, KEYS), "rb") as stream:
                data = stream.read(most * KEY_BYTES)
        except FileNotFoundError:
            return {}
        count = len(data) // KEY_BYTES
        return {data[n * KEY_BYTES : (n + 1) * KEY_BYTES]: n for n in range(count)}


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()
