# SPDX-License-Identifier: Apache-2.0
"""Prompt embeddings in the records of a cache: which texts of a sample are embedded, and how they lie.

    words      the texts themselves: caption, text, further captions
    caption    {data, shape} of the long caption: float16 (tokens, width), no padding
    text       the same of the short one; of the first sentence of the long one where there is none
    captions   a list of the same, of further long captions, where some sample has several

An embedding without tokens stands for a text that adds nothing: no short caption but the long one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from diffnext.data.parse import FLOAT16, first_sentence

EMBEDDING = {"data": "bytes", "shape": ["int64"]}
WORDS = "words"
TYPES: dict[str, Any] = {"caption": EMBEDDING, "text": EMBEDDING, "captions": [EMBEDDING]}

Embedding = Mapping[str, Any]  # a value of the type EMBEDDING
Find = Callable[[Sequence[str]], Mapping[str, Embedding]]  # texts without an embedding are left out


def embedded_types(types: Mapping[str, Any]) -> dict[str, Any]:
    """The types of the fields of records whose captions are embedded.

    Args:
        types: of the same records with texts.

    Raises:
        ValueError: they have no captions.
    """
    if "caption" not in types:
        raise ValueError("--encode-prompts: the input has labels and no captions; leave it out")
    return {**types, **{name: TYPES[name] for name in TYPES if name in types}, WORDS: ["string"]}


def words_of(fields: Mapping[str, Any]) -> list[str]:
    """The texts of a sample that are embedded: caption, text, further captions.

    Args:
        fields: with the texts `caption` and `text`; `captions`, if any, begins with `caption`.
    """
    caption = fields.get("caption") or fields.get("text") or ""
    text = fields.get("text") or first_sentence(caption)
    more = (fields.get("captions") or ())[1:]
    adds_nothing = text == caption and not more
    return [caption, "" if adds_nothing else text, *more]


def fields_of(words: Sequence[str], *, several: bool) -> Iterator[dict[str, Any]]:
    """The texts of a sample, as they may have been, of which `words_of` gives these words.

    None of damaged words, which may be too few.

    Args:
        several: whether its records have the field `captions`.
    """
    if len(words) < 2:
        return
    caption, text, *more = words
    rest = {"captions": (caption, *more)} if several else {}
    for short in dict.fromkeys(["", text, caption]):
        yield {"caption": caption, "text": short, **rest}


def expected_bytes(fields: Mapping[str, Any], encoder: Mapping[str, Any]) -> int:
    """About how large the embeddings of a sample are, at three bytes of text a token.

    Args:
        encoder: as the identity of the cache states it.
    """
    lengths = [len(text.encode()) // 3 + 1 for text in words_of(fields) if text]
    return sum(min(length, encoder["max_length"]) for length in lengths) * encoder["width"] * 2


def embed(batch: Sequence[Mapping[str, Any]], find: Find) -> list[dict[str, Any] | Exception]:
    """The fields of samples with embeddings in place of their texts; an error where one has none."""
    words = [words_of(fields) for fields in batch]
    found = find(sorted({text for texts in words for text in texts}))
    return [_embed(fields, texts, found) for fields, texts in zip(batch, words, strict=True)]


def _embed(
    fields: Mapping[str, Any], texts: list[str], found: Mapping[str, Embedding]
) -> dict[str, Any] | Exception:
    missing = [text for text in texts if text not in found]
    if missing:
        return ValueError(f"the text encoder gives NaN, or beyond float16, for {missing[0]!r}")
    caption, text, *more = (found[text] for text in texts)
    several = {"captions": more} if "captions" in fields else {}
    return {**fields, "caption": caption, "text": text, **several, WORDS: texts}


def embedding_of(states: np.ndarray) -> Embedding | None:
    """What is stored of the states (L, D) of a text; None if they do not fit into float16."""
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(states, dtype=FLOAT16)
    if not np.isfinite(stored).all():
        return None
    return {"data": stored.tobytes(), "shape": list(stored.shape)}


def embeddings_in(record: Mapping[str, Any]) -> list[Embedding]:
    """The embeddings of a record, in the order of its words."""
    return [record["caption"], record["text"], *record.get("captions", ())]
