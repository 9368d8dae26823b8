# SPDX-License-Identifier: Apache-2.0
"""A folder of prompt embeddings for a cache of texts: record i is of the texts of the cache's record i.

Training joins the two (TRAIN.DATASET2), so that the media need not be encoded again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffnext.data.progress import Progress, silent
from diffnext.data.prompt_cache import embed, embedded_types, words_of
from diffnext.data.prompt_encoding import EncodeTexts, copy_held, encode_texts
from diffnext.data.prompt_store import PromptStore
from diffnext.data.records import open_reader, open_writer, read_identity, write_identity
from diffnext.data.records.layout import JOURNAL, unfinished_ok
from diffnext.data.records.lock import FolderLock
from diffnext.utils.files import remove_drafts

FIELDS = ("caption", "captions", "text")
VERSION = 1


@dataclass(frozen=True)
class Texts:
    """The texts of a cache, in the order of its records."""

    cache: str
    names: tuple[str, ...]  # of the fields that are embedded
    rows: list[dict[str, Any]]  # of these fields

    def digest(self, count: int) -> str:
        """What the first `count` rows are, for comparison."""
        digest = hashlib.sha256()
        for row in self.rows[:count]:
            digest.update(repr(words_of(row)).encode())
        return digest.hexdigest()


def read_texts(cache: str, progress: Progress = silent) -> Texts:
    """Read the texts of a cache.

    Raises:
        ValueError: it has none, or embeddings.
    """
    reader = open_reader(cache)
    held = [name for name in FIELDS if name in reader.fields]
    if not {"caption", "text"} & set(held):
        raise ValueError(f"{cache} has no captions; its fields are {sorted(reader.fields)}")
    if any(
        isinstance(reader.fields[name], Mapping) for name in ("caption", "text") if name in held
    ):
        raise ValueError(f"{cache} has prompt embeddings already")
    rows = []
    for number in progress(range(len(reader)), len(reader), "read"):
        record = reader[number]
        rows.append({name: record[name] for name in held})
    reader.close()
    return Texts(cache, tuple(dict.fromkeys(("caption", "text", *held))), rows)


def embed_cache(
    texts: Texts,
    output: str,
    encoder: Mapping[str, Any],
    load: Callable[[], EncodeTexts],
    *,
    batch_size: int = 32,
    progress: Progress = silent,
) -> int:
    """Embed the texts of a cache into a folder, or go on with that. Returns how many records it wrote.

    Args:
        encoder: what `load` gives, for the identity.
        load: makes the text encoder ready; called if there is a text to embed.
        batch_size: texts at a time.

    Raises:
        ValueError: the folder is of another encoder or of other texts, or a text cannot be embedded.
    """
    with FolderLock(output) as lock:
        remove_drafts(output)
        begun = _begun(texts, output, encoder)
        store = PromptStore(output, encoder)
        rows = texts.rows[begun:]
        if rows:
            wanted = {text for row in rows for text in words_of(row)}
            held = enumerate(words_of(row) for row in texts.rows[:begun])
            if begun:
                copy_held(store, output, held, wanted)
            missing = {text for text in wanted if text not in store}
            if missing:
                encode_texts(store, missing, load(), batch_size=batch_size, progress=progress)
            count = len(texts.rows)
            of = {"records": count, "texts_sha256": texts.digest(count)}
            write_identity(output, _identity(texts, encoder) | {"of": of})
        if rows or os.path.exists(os.path.join(output, JOURNAL)):  # that of a killed process
            _write(texts, rows, output, store, lock, progress)
        store.discard()
    return len(rows)


def _begun(texts: Texts, output: str, encoder: Mapping[str, Any]) -> int:
    """How many records the folder has; it must be of these texts and this encoder."""
    held = read_identity(output) or {}
    count = _count(output)
    if not held and not count:
        return 0
    of = held.pop("of", {})
    if held != _identity(texts, encoder):
        raise ValueError(
            f"{output} was made by another text encoder, or of other fields; choose another --output"
        )
    known = of["records"]
    if known > len(texts.rows) or of["texts_sha256"] != texts.digest(known):
        raise ValueError(
            f"{output} was made of other texts than {texts.cache} has now: records of that were "
            "changed or dropped; choose another --output"
        )
    return count


def _count(output: str) -> int:
    try:
        with unfinished_ok():
            reader = open_reader(output)
    except (FileNotFoundError, ValueError):  # no records yet
        return 0
    reader.close()
    return len(reader)


def _identity(texts: Texts, encoder: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": VERSION, "text_encoder": dict(encoder), "fields": list(texts.names)}


def _write(
    texts: Texts,
    rows: Sequence[Mapping[str, Any]],
    output: str,
    store: PromptStore,
    lock: FolderLock,
    progress: Progress,
) -> None:
    types = embedded_types(dict.fromkeys(texts.names, "string"))
    with unfinished_ok():  # to go on with it is the purpose
        writer = open_writer(output, types, append=True, lock=lock)
    with writer:
        for row in progress(rows, len(rows), "write"):
            [known] = embed([row], store)
            if isinstance(known, Exception):
                raise ValueError(f"{known}; another --text-dtype may help")
            writer.write(known)
