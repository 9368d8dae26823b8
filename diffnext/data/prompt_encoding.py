# SPDX-License-Identifier: Apache-2.0
"""Texts to embeddings: each once, longest first, in batches; those that the cache holds are copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from diffnext.data.encoding import is_out_of_memory
from diffnext.data.journal import Entry, sample_key
from diffnext.data.progress import Progress, silent
from diffnext.data.prompt_cache import Embedding, embedding_of, embeddings_in, words_of
from diffnext.data.prompt_store import PromptStore
from diffnext.data.records import open_reader
from diffnext.data.records.layout import unfinished_ok
from diffnext.data.sources import Source
from diffnext.utils.logging import logger

EncodeTexts = Callable[[Sequence[str]], Sequence[np.ndarray]]  # texts to states (L_i, D)

KEPT = 256  # embeddings that are kept in memory where there is no store


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
    with unfinished_ok():
        reader = open_reader(cache)
    with store.begin() as part:
        for number, words in held:
            if left.intersection(words):
                texts = dict(zip(words, embeddings_in(reader[number]), strict=True))
                part.write({text: texts[text] for text in texts if text in left})
                left.difference_update(words)
    reader.close()
    store.load()
    return len(store) - before


def encode_texts(
    store: PromptStore,
    texts: Iterable[str],
    encode: EncodeTexts,
    *,
    batch_size: int = 32,
    progress: Progress = silent,
) -> None:
    """Embed texts and store them.

    Args:
        batch_size: texts at a time; fewer from there on where memory turns out too small.
        progress: wraps an iterable of known length, to show how far it is.
    """
    ordered = longest_first(texts)
    patient = PatientTextEncoder(encode, batch_size)
    with store.begin() as part:
        for batch in patient.batches(progress(ordered, len(ordered), "prompts")):
            part.write(batch)
    store.load()


def longest_first(texts: Iterable[str]) -> list[str]:
    """Texts in an order in which those of a batch are of about one length."""
    return sorted(texts, key=lambda text: (-len(text), text))


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

    def batches(self, texts: Iterable[str]) -> Iterator[dict[str, Embedding | None]]:
        """Embed any number of texts, as many at a time as memory allows."""
        remaining = iter(texts)
        while batch := list(islice(remaining, self.most)):
            yield self(batch)

    def _halve(self, count: int, error: Exception) -> None:
        self.most = min(self.most, count // 2)
        logger.warning(
            f"memory is too small for {count} prompts at a time ({error}); they are embedded by "
            f"{self.most} or fewer from here on"
        )


class LivePrompts:
    """Embeds texts when they are asked for, by a text encoder that stays in memory.

    Those asked for last are kept: the views of one medium have the same texts.

    Args:
        batch_size: texts that are embedded at a time.
    """

    def __init__(self, encode: EncodeTexts, batch_size: int = 32) -> None:
        self._encode = PatientTextEncoder(encode, batch_size)
        self._known: dict[str, Embedding | None] = {}

    def __call__(self, texts: Sequence[str]) -> dict[str, Embedding]:
        """The embeddings of those texts that have one."""
        for batch in self._encode.batches([text for text in texts if text not in self._known]):
            self._known |= batch
        found = {text: self._known[text] for text in texts}
        self._known = dict([*self._known.items()][-KEPT:])
        return {text: value for text, value in found.items() if value is not None}
