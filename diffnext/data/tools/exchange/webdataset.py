# SPDX-License-Identifier: Apache-2.0
"""Tars of members that share a name, as webdataset has them: NAME.npy or NAME.npz, .txt, .json, .cls.

The array, or `moments` in the .npz, are moments (2C, H, W) or (2C, T, H, W); whether they were shifted
and scaled, no file says. The .txt is the caption, .cls the label, .json any of the fields.
"""

from __future__ import annotations

import glob
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from diffnext.data.fields import parse_fields
from diffnext.data.prompt_cache import WORDS
from diffnext.data.sources.webdataset import away
from diffnext.data.tools.exchange.sample import (
    Options,
    Row,
    Sample,
    from_arrays,
    is_embedded,
    to_arrays,
)

KNOWN: dict[str, Any] = {}
ARRAYS = ("npy", "npz", "moments.npy")
PARTS = (*ARRAYS, "txt", "json", "cls")
SHARD_BYTES = 1 << 30


def read(source: str, options: Options) -> tuple[Iterator[Sample], None, dict[str, Any]]:
    """Samples of a tar or a folder of tars; how many is not known before they are read.

    Raises:
        ValueError: no tar there, or no sample in any.
    """
    files = [source]
    if os.path.isdir(source):
        files = sorted(glob.glob(os.path.join(glob.escape(source), "*.tar*")))
    if not files:
        raise ValueError(f"{source} holds no .tar")
    return _samples(files, options), None, {}


def write(folder: str, rows: Iterable[Row], options: Options) -> list[str]:
    """Write records as tars of about 1 GiB, named 000000.tar and so on. Returns no remarks."""
    tar, number, size = None, 0, 0
    try:
        for row in rows:
            parts = _members(row)
            if tar is None or size > SHARD_BYTES:
                if tar is not None:
                    tar.close()
                tar = tarfile.open(os.path.join(folder, f"{number:06d}.tar"), "w")
                number, size = number + 1, 0
            for suffix, data in parts.items():
                info = tarfile.TarInfo(f"{row.number:09d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                size += len(data)
    finally:
        if tar is not None:
            tar.close()
    return []


def _members(row: Row) -> dict[str, bytes]:
    embedded = {name: value for name, value in row.fields.items() if is_embedded(value)}
    plain = {name: value for name, value in row.fields.items() if name not in embedded}
    packed = io.BytesIO()
    np.savez(packed, moments=row.moments, **to_arrays(embedded))
    return {"npz": packed.getvalue(), "json": json.dumps(plain, ensure_ascii=False).encode()}


def _samples(files: Sequence[str], options: Options) -> Iterator[Sample]:
    others: set[str] = set()
    count = 0
    for path in files:
        for name, parts in _groups(path, others):
            if parts.keys() & {*ARRAYS}:
                count += 1
                yield from _sample(parts, f"{path}/{name}", options)
    if not count:
        raise ValueError(
            f"{files[0]} holds no .npy or .npz of moments, only {sorted(others) or 'other members'}"
        )


def _groups(path: str, others: set[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Members of one name, which lie one after another.

    Args:
        others: gets the endings that are passed over.
    """
    name, parts = "", {}
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                folder, base = os.path.split(member.name)
                stem, _, suffix = base.partition(".")
                is_file = member.isfile() or member.islnk() or member.issym()
                if not is_file or suffix.lower() not in PARTS:
                    others.update({f".{suffix}"} if is_file else ())
                    continue
                if reason := away(member):
                    raise ValueError(f"{path}: {reason}")
                if os.path.join(folder, stem) != name and parts:
                    yield name, parts
                    parts = {}
                name = os.path.join(folder, stem)
                parts[suffix.lower()] = tar.extractfile(member).read()
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if parts:
        yield name, parts


def _sample(parts: Mapping[str, bytes], origin: str, options: Options) -> Iterator[Sample]:
    try:
        arrays = _arrays(parts)
        values = json.loads(parts.get("json", b"{}"))
        if not isinstance(values, dict):
            raise ValueError(f"its .json holds {type(values).__name__}, an object is wanted")
        values |= {"caption": parts["txt"].decode().strip()} if "txt" in parts else {}
        values |= {"label": parts["cls"].decode().strip()} if "cls" in parts else {}
        fields = {**parse_fields(values), **_exact(values)}
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{origin}: {error}") from error
    if "moments" not in arrays:
        raise ValueError(f"{origin}: no array 'moments', only {sorted(arrays)}")
    moments = arrays.pop("moments")
    fields |= from_arrays(arrays, origin)
    if options.flips or not fields.get("flip"):
        yield Sample(moments, fields, origin)


def _arrays(parts: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    for name in ("npy", "moments.npy"):
        if name in parts:
            return {"moments": np.load(io.BytesIO(parts[name]), allow_pickle=False)}
    with np.load(io.BytesIO(parts["npz"]), allow_pickle=False) as opened:
        return dict(opened)


def _exact(values: Mapping[str, Any]) -> dict[str, Any]:
    """Texts as they stand there, empty ones too, and the mark of mirrored ones."""
    texts = {n: v for n, v in values.items() if n in ("caption", "text") and isinstance(v, str)}
    for name in ("captions", WORDS):
        if isinstance(values.get(name), list):
            texts[name] = [str(text) for text in values[name]]
    return texts | ({"flip": int(values["flip"])} if "flip" in values else {})
