# SPDX-License-Identifier: Apache-2.0
"""A sample on its way between a cache and another layout, and what both sides need of it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffnext.data.journal import Entry
from diffnext.utils.moments import split_moments

POINT = -30.0  # log-variance of a posterior without spread: the least that diffusers takes
SPREAD = -20.0  # above it, a draw differs from the mean in float16
LARGEST = 65504.0  # of float16
NEAR = 64  # records; a build writes twins side by side, but batches of other sizes between them


@dataclass(frozen=True)
class Sample:
    """What a layout holds of one sample.

    Args:
        moments: (2C, H, W) or (2C, T, H, W), mean and then log-variance, of any float type.
        fields: of the record, besides its moments.
        origin: file and place, for messages.
    """

    moments: np.ndarray
    fields: Mapping[str, Any]
    origin: str


@dataclass(frozen=True)
class Row:
    """A record on its way out.

    Args:
        number: of the record.
        moments: (2C, ...) float16.
        fields: besides its moments and shape.
        entry: its line of the journal, if there is one.
    """

    number: int
    moments: np.ndarray
    fields: Mapping[str, Any]
    entry: Entry | None

    @property
    def is_flip(self) -> bool:
        """Whether it is mirrored, as the journal says, or the field of an imported cache."""
        return bool(self.fields.get("flip")) or (self.entry is not None and self.entry.view.flip)

    @property
    def twins(self) -> Hashable:
        """What a record and its mirrored twin have in common, and no other near them."""
        if self.entry is None:
            return self.moments.shape
        return self.moments.shape, self.entry.path, self.entry.view.frame_ids


@dataclass(frozen=True)
class Options:
    """What is wanted of a conversion.

    Args:
        flips: take the mirrored twins of samples too.
        embeddings: take prompt embeddings instead of captions, where a layout has both.
        means: write posterior means where a layout has no place for variances.
    """

    flips: bool = True
    embeddings: bool = False
    means: bool = False


def in_pairs(rows: Iterable[Row]) -> Iterator[tuple[Row, Row | None]]:
    """Each record with its mirrored twin, if that follows it within `NEAR` records.

    Raises:
        ValueError: a mirrored record that comes alone.
    """
    waiting: dict[Hashable, Row] = {}  # in the order in which they came
    for row in rows:
        before = waiting.pop(row.twins, None)
        if row.is_flip and before is None:
            raise ValueError(
                f"record {row.number} is mirrored and follows no twin; leave such records out: "
                "diffnext cache filter --where flip=0"
            )
        if row.is_flip:
            yield before, row
            continue
        if before is not None:
            yield before, None
        waiting[row.twins] = row
        if len(waiting) > NEAR:
            yield waiting.pop(next(iter(waiting))), None
    yield from ((row, None) for row in waiting.values())


def point(latent: np.ndarray) -> np.ndarray:
    """The moments (2C, ...) of a posterior without spread around a latent (C, ...)."""
    latent = np.asarray(latent, np.float32)
    return np.concatenate([latent, np.full_like(latent, POINT)])


def latent_of(row: Row, options: Options, layout: str) -> np.ndarray:
    """The mean (C, ...) float32 of a record, for a layout that holds nothing else.

    Raises:
        ValueError: its posterior has a spread, and `options` do not let that go.
    """
    mean, logvar = split_moments(row.moments.astype(np.float32))
    if not options.means and float(logvar.max()) > SPREAD:
        raise ValueError(
            f"record {row.number} has variances, for which {layout} has no place; --means writes the "
            "means alone"
        )
    return mean


def stored(sample: Sample) -> np.ndarray:
    """The moments as a record has them, contiguous float16.

    Raises:
        ValueError: they are no moments, or float16 cannot hold them.
    """
    values = sample.moments
    if values.ndim not in (3, 4) or values.shape[0] % 2 or not values.size:
        raise ValueError(
            f"{sample.origin}: an array of shape {list(values.shape)}; moments are (2C, H, W) or "
            "(2C, T, H, W)"
        )
    if values.dtype.kind != "f":
        raise ValueError(f"{sample.origin}: {values.dtype} numbers; moments are of a float type")
    if not np.all(np.abs(values) <= LARGEST):
        raise ValueError(f"{sample.origin}: values that are NaN or beyond the range of float16")
    return np.ascontiguousarray(values, "<f2")


def is_embedded(value: Any) -> bool:
    """Whether a field is an embedding, or a list of such."""
    if isinstance(value, list | tuple):
        return any(map(is_embedded, value))
    return isinstance(value, Mapping)


def to_arrays(fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Fields as .npz can hold them: texts and numbers, lists of texts, embeddings (L, D).

    Of a list of embeddings each is an array: captions.0, captions.1, ...
    """
    arrays = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            arrays[name] = np.frombuffer(value["data"], "<f2").reshape(value["shape"])
        elif is_embedded(value):
            arrays |= to_arrays({f"{name}.{n}": one for n, one in enumerate(value)})
        elif isinstance(value, list | tuple):
            arrays[name] = np.array(list(value), str)
        else:
            arrays[name] = np.array(value)
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray], origin: str) -> dict[str, Any]:
    """Fields again from arrays; see `to_arrays`.

    Raises:
        ValueError: an array that is none of these.
    """
    fields: dict[str, Any] = {}
    for name, array in arrays.items():
        stem, _, number = name.rpartition(".")
        value = _field(name, array, origin)
        if stem and number.isdigit():
            fields.setdefault(stem, []).append(value)
        else:
            fields[name] = value
    return fields


def _field(name: str, array: np.ndarray, origin: str) -> Any:
    if array.ndim == 0 and array.dtype.kind in "Uif":
        return array.item()
    if array.ndim == 1 and array.dtype.kind == "U":
        return array.tolist()
    if array.ndim == 2 and array.dtype.kind == "f":
        return embedding(array)
    raise ValueError(f"{origin}: {name!r} is {array.dtype} of shape {list(array.shape)}")


def embedding(array: np.ndarray) -> dict[str, Any]:
    """A prompt embedding (L, D) as a record has it."""
    return {"data": np.ascontiguousarray(array, "<f2").tobytes(), "shape": list(array.shape)}
