# SPDX-License-Identifier: Apache-2.0
"""One .npz a sample, in a folder for each class, as MAR caches them: `moments` and `moments_flip`.

MAR stores what its autoencoder's `encode` gives, neither shifted nor scaled, as float32. The number of a
class is the place of its folder among the sorted names, or the name where all are numbers. Further
arrays (caption, text, flow, ...) are taken for fields; MAR passes over them.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from diffnext.data.tools.exchange.sample import (
    Options,
    Row,
    Sample,
    from_arrays,
    in_pairs,
    to_arrays,
)

KNOWN = {"normalisation": "raw"}


def read(source: str, options: Options) -> tuple[Iterator[Sample], int, dict[str, Any]]:
    """Samples of a folder, their number (files, of one or two samples), and what is worth stating.

    Raises:
        ValueError: no .npz there.
    """
    classes = sorted(entry.name for entry in os.scandir(source) if entry.is_dir())
    numbers = [int(name) if all(map(str.isdigit, classes)) else n for n, name in enumerate(classes)]
    files = [(path, None) for path in _files(source, deep=False)]
    for name, number in zip(classes, numbers, strict=True):
        files += [(path, number) for path in _files(os.path.join(source, name), deep=True)]
    if not files:
        raise ValueError(f"{source} holds no .npz")
    known = {"classes": dict(zip(classes, numbers, strict=True))} if classes else {}
    return _samples(files, options), len(files), known


def write(folder: str, rows: Iterable[Row], options: Options) -> list[str]:
    """Write records; mirrored ones into the file of the record that they follow. Returns remarks."""
    alone = 0
    for row, twin in in_pairs(rows):
        fields = {
            name: value for name, value in row.fields.items() if name not in ("label", "flip")
        }
        label = row.fields.get("label")
        place = folder if label is None else os.path.join(folder, f"{label:05d}")
        os.makedirs(place, exist_ok=True)
        arrays = {"moments": row.moments.astype(np.float32)}
        if twin is not None:
            arrays["moments_flip"] = twin.moments.astype(np.float32)
        np.savez(os.path.join(place, f"{row.number:09d}.npz"), **arrays, **to_arrays(fields))
        alone += twin is None
    missing = f"{alone} files have no moments_flip, which MAR's own loader asks for"
    return [missing] if alone else []


def _files(folder: str, *, deep: bool) -> Iterator[str]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(folders) if deep else []
        yield from (os.path.join(root, name) for name in sorted(names) if name.endswith(".npz"))


def _samples(files: Iterable[tuple[str, int | None]], options: Options) -> Iterator[Sample]:
    for path, label in files:
        try:
            with np.load(path, allow_pickle=False) as opened:
                arrays = dict(opened)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if "moments" not in arrays:
            raise ValueError(f"{path} has no array 'moments', only {sorted(arrays)}")
        moments, mirrored = arrays.pop("moments"), arrays.pop("moments_flip", None)
        fields = from_arrays(arrays, path) | ({} if label is None else {"label": label})
        if mirrored is None or not options.flips:
            yield Sample(moments, fields, path)
        else:
            yield Sample(moments, {**fields, "flip": 0}, path)
            yield Sample(mirrored, {**fields, "flip": 1}, path)
