# SPDX-License-Identifier: Apache-2.0
"""What training takes from a record: its moments as an array, and the choice of a caption.

Letters: C latent channel, T latent frame, H W latent size, L text length, D text width.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from diffnext.utils.mixing import mix

FLOAT16 = np.dtype("<f2")
# A mark ends a sentence before a space or at the end, a full-width one (Chinese, Japanese) anywhere.
SENTENCE = re.compile(".+?(?:[.!?](?=\\s|$)|[\u3002\uff01\uff1f]|$)", re.DOTALL)


def draw_prompts(
    records: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    index: Sequence[int],
    epoch: Sequence[int],
    short_caption: float = 0.5,
) -> Iterator[str | np.ndarray | None]:
    """What samples are trained on: a caption, or its embedding (L, D) float16; None if it has none.

    It is drawn from (seed, epoch, index) alone: `text`, the short one, with probability
    `short_caption`, else `caption`, or one of `captions` where there are several. Where there is no
    `text`, the first sentence of the long one stands for it.

    Args:
        records: decoded fields of each.
        seed: of the run.
        index: number of each record in its dataset.
        epoch: how many times the dataset was gone through before.
        short_caption: probability of the short caption; 0.5 is that of the published models.

    Raises:
        ValueError: the bytes of an embedding do not fit its shape.
    """
    keys = {number: _key(seed, number, "caption") for number in set(epoch)}
    below = short_caption * 2**64
    for record, i, e in zip(records, index, epoch, strict=True):
        short = xxh3_64_intdigest(b"%d" % i, keys[e]) < below
        if record.get("captions"):
            record = _with_one_caption(record, seed, i, e)
        yield choose_prompt(record, short)


def _with_one_caption(
    record: Mapping[str, Any], seed: int, index: int, epoch: int
) -> Mapping[str, Any]:
    several = _long_captions(record)
    if len(several) == 1:
        return record
    place = xxh3_64_intdigest(b"%d" % index, _key(seed, epoch, "captions")) % len(several)
    return {**record, "caption": several[place]}


def _long_captions(record: Mapping[str, Any]) -> Sequence[Any]:
    """Texts of the list, which `caption` is one of; embeddings of it, which `caption` goes before."""
    several = record["captions"]
    return [record["caption"], *several] if isinstance(several[0], Mapping) else several


@functools.lru_cache(maxsize=64)
def _key(seed: int, epoch: int, purpose: str) -> int:
    """What tells the draws of an epoch from others; all of a batch share it."""
    return mix(seed, purpose, epoch)


def moments(record: Mapping[str, Any]) -> np.ndarray:
    """The moments as (2C, T, H, W) float16, a view; T = 1 for a picture.

    Raises:
        ValueError: there are none, or their bytes are not float16 of the record's shape.
    """
    if "moments" not in record:
        held = (
            "codes (int32), which need a model of discrete tokens" if "codes" in record else "none"
        )
        raise ValueError(
            f"training reads 'moments', the record has {held}; its fields: {list(record)}"
        )
    shape = moments_shape(record["shape"])
    return _array(record["moments"], shape, "moments")


def moments_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """(2C, T, H, W) of a stored shape, which for a picture has no T.

    Raises:
        ValueError: neither three nor four axes, or an empty one.
    """
    return _with_frames(tuple(shape))


@functools.lru_cache(maxsize=256)  # asked for each batch, of few shapes
def _with_frames(shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(map(int, shape))
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(f"shape {list(shape)} is neither (2C, H, W) nor (2C, T, H, W)")
    return shape if len(shape) == 4 else (shape[0], 1, *shape[1:])


def choose_prompt(record: Mapping[str, Any], short: bool) -> str | np.ndarray | None:
    """The long or the short caption, or its embedding (L, D) float16; None if there is neither."""
    wanted = record.get("text" if short else "caption")
    if wanted and isinstance(wanted, str):
        return wanted
    present = [name for name in ("caption", "text") if name in record]
    filled = [name for name in present if _is_filled(record[name])]
    if not filled:
        return _prompt(record[present[0]], present[0]) if present else None
    name = filled[-1 if short else 0]
    prompt = _prompt(record[name], name)
    is_whole = short and name == "caption" and isinstance(prompt, str)
    return first_sentence(prompt) if is_whole else prompt


def first_sentence(caption: str) -> str:
    """The text up to and with the first full stop, `!` or `?` that ends a sentence."""
    found = SENTENCE.match(caption.strip())
    return found[0] if found else ""


def _is_filled(value: Any) -> bool:
    return len(value if isinstance(value, str) else value["data"]) > 0


def _prompt(value: Any, name: str) -> str | np.ndarray:
    if isinstance(value, str):
        return value
    shape = tuple(int(n) for n in value["shape"])
    if not len(value["data"]):
        return np.empty((0, shape[-1] if shape else 0), FLOAT16)
    if len(shape) != 2:
        raise ValueError(f"the embedding {name!r} has shape {list(shape)}, wanted (tokens, width)")
    return _array(value["data"], shape, name).copy()  # not to keep the whole record


def _array(data: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    size, wanted = memoryview(data).nbytes, math.prod(shape) * FLOAT16.itemsize
    if size != wanted:
        hint = ": they look like float32, store them as float16" if size == 2 * wanted else ""
        raise ValueError(
            f"{name!r} has {size} bytes, float16 of shape {list(shape)} takes {wanted}{hint}"
        )
    return np.frombuffer(data, FLOAT16).reshape(shape)
