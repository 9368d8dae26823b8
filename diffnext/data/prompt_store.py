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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from diffnext.data.encoding import is_out_of_memory
from diffnext.data.journal import Entry, sample_key
from diffnext.data.prompt_cache import (
    EMBEDDING,
    Embedding,
    embedding_of,
    embeddings_in,
    words_of,
)
from diffnext.data.records import open_reader, open_writer, read_identity, write_identity
from diffnext.data.sources import Source
from diffnext.utils.logging import logger

STORE = "diffnext.prompts"
KEYS = "keys.bin"
KEY_BYTES = 16

EncodeTexts = Callable[[Sequence[str]], Sequence[np.ndarray]]  # texts to states (L_i, D)
Progress = Callable[[Iterable, int, str], Iterable]


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


def held_words(
    entries: Iterable[Entry], sources: Iterable[Source]
) -> Iterator[tuple[int, list[str]]]:
    """The records of a cache whose texts are known, by their numbers, with these texts.

    Args:
        entries: of its journal.
        sources: the listed media, with the fields that all records have.
    """
    listed: dict[str, list[Source]] = {}
    for source in sources:
        listed.setdefault(source.path, []).append(source)
    for number, entry in enumerate(entries):
        for source in listed.get(entry.path, ()):
            fields = source.fields()
            if sample_key(entry.content, fields, entry.view) == entry.key:
                yield number, words_of(fields)
                break


def copy_held(
    store: PromptStore, cache: str, held: Iterable[tuple[int, list[str]]], wanted: set[str]
) -> int:
    """Copy embeddings from the records of a cache. Returns how many.

    Args:
        held: records and their words.
        wanted: texts to look for.
    """
    before = len(store)
    left = {text for text in wanted if text not in store}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an unfinished folder
        reader = open_reader(cache)

    def found() -> Iterator[dict[str, Embedding]]:
        for number, words in held:
            if left.intersection(words):
                texts = dict(zip(words, embeddings_in(reader[number]), strict=True))
                yield {text: texts[text] for text in texts if text in left}
                left.difference_update(words)

    store.add(found())
    reader.close()
    return len(store) - before


def encode_texts(
    store: PromptStore,
    texts: Iterable[str],
    encode: EncodeTexts,
    *,
    batch_size: int = 32,
    progress: Progress = lambda items, total, name: items,
) -> None:
    """Embed texts and store them, longest first, so that a batch is of about one length.

    Args:
        batch_size: texts at a time; fewer from there on where memory turns out too small.
        progress: wraps an iterable of known length, to show how far it is.
    """
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    patient = PatientTextEncoder(encode, batch_size)
    remaining = iter(progress(ordered, len(ordered), "prompts"))

    def batches() -> Iterator[dict[str, Embedding | None]]:
        while batch := list(islice(remaining, patient.most)):
            yield patient(batch)

    store.add(batches())


class PatientTextEncoder:
    """Embeds texts; what memory is too small for in halves.

    Args:
        most: texts that are embedded at a time.
    """

    def __init__(self, encode: EncodeTexts, most: int) -> None:
        self._encode, self.most = encode, most

    def __call__(self, texts: Sequence[str]) -> dict[str, Embedding | None]:
        """The embedding of each text; None where its states do not fit into float16.

        Raises:
            MemoryError, RuntimeError: the encoder failed on a single text, or for another reason
                than a lack of memory.
        """
        try:
            states = self._encode(texts)
        except (MemoryError, RuntimeError) as error:
            if len(texts) == 1 or not is_out_of_memory(error):
                raise
            self._halve(len(texts), error)
        else:
            return {text: embedding_of(one) for text, one in zip(texts, states, strict=True)}
        half = len(texts) // 2
        return {**self(texts[:half]), **self(texts[half:])}

    def _halve(self, count: int, error: Exception) -> None:
        self.most = min(self.most, count // 2)
        logger.warning(
            f"memory is too small for {count} prompts at a time ({error}); they are embedded by "
            f"{self.most} or fewer from here on"
        )


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()
