# SPDX-License-Identifier: Apache-2.0
"""Parquet files as FastVideo's preprocessing writes them: a row a sample, tensors as bytes, shape, dtype.

`vae_latent` (C, T, H, W) or (C, H, W) is the mean of the posterior, whose spread is lost. Whether it was
shifted and scaled depends on the version that wrote it, and no file says so. The type of a tensor is
what its `_dtype` says; on the way out it is float32, as FastVideo reads no other.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from diffnext.data.prompt_cache import WORDS
from diffnext.data.tools.exchange.sample import (
    Options,
    Row,
    Sample,
    embedding,
    latent_of,
    point,
)

KNOWN = {"posterior": "a point: only the means were stored"}
EXTRA = ("text", "label", "flow", "flip")  # columns of ours, which FastVideo passes over
FILE_ROWS, GROUP_ROWS = 1024, 16


def read(source: str, options: Options) -> tuple[Iterator[Sample], int, dict[str, Any]]:
    """Samples of the parquet files of a folder or its sub-folders, their number, nothing to state.

    Raises:
        ValueError: no such file, or one without latents.
    """
    parquet = _pyarrow("pyarrow.parquet")
    pattern = os.path.join(glob.escape(source), "**", "*.parquet")
    files = [source] if os.path.isfile(source) else glob.glob(pattern, recursive=True)
    files.sort(key=_by_number)
    if not files:
        raise ValueError(f"{source} holds no .parquet")
    total = sum(parquet.ParquetFile(path).metadata.num_rows for path in files)
    return _samples(files, options), total, {}


def write(folder: str, rows: Iterable[Row], options: Options) -> list[str]:
    """Write records as parquet files. Returns remarks."""
    arrow, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    os.makedirs(os.path.join(folder, "worker_0"))
    held: list[dict[str, Any]] = []
    file = count = without = 0
    writer = None
    for row in rows:
        values = _values(row, options)
        without += not values["text_embedding_bytes"]
        held.append(values)
        count += 1
        if len(held) == GROUP_ROWS:
            writer = _write_group(arrow, parquet, writer, folder, file, held)
            held = []
        if count % FILE_ROWS == 0:
            writer.close()
            writer, file = None, file + 1
    if held:
        writer = _write_group(arrow, parquet, writer, folder, file, held)
    if writer is not None:
        writer.close()
    missing = f"{without} rows have no text embedding, which FastVideo's trainer needs"
    return [missing] if without else []


def _by_number(path: str) -> list[tuple[int, str]]:
    """Sorts data_chunk_10 behind data_chunk_9."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", path)]


def tensor(row: Mapping[str, Any], name: str, origin: str) -> np.ndarray:
    """A tensor of a row, of the type that the row says.

    Raises:
        ValueError: another type, or not as many bytes as the shape takes.
    """
    data, shape = row[f"{name}_bytes"] or b"", row[f"{name}_shape"] or []
    kind = str(row.get(f"{name}_dtype") or "float32").removeprefix("torch.")
    if kind not in ("float16", "float32", "float64", "bfloat16"):
        raise ValueError(f"{origin}: {name} is of type {kind!r}; a float type is wanted")
    stored = np.dtype("<u2" if kind == "bfloat16" else kind).newbyteorder("<")
    wanted = int(np.prod(shape)) * stored.itemsize
    if len(data) != wanted:
        raise ValueError(f"{origin}: {name} has {len(data)} bytes, {kind} {shape} takes {wanted}")
    values = np.frombuffer(data, stored).reshape(shape)
    if kind == "bfloat16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _samples(files: Iterable[str], options: Options) -> Iterator[Sample]:
    parquet = _pyarrow("pyarrow.parquet")
    for path in files:
        opened = parquet.ParquetFile(path)
        names = set(opened.schema_arrow.names)
        tensors = ["vae_latent", *(["text_embedding"] if options.embeddings else [])]
        wanted = {f"{name}_{part}" for name in tensors for part in ("bytes", "shape")}
        if missing := sorted(wanted - names):
            raise ValueError(f"{path} has no columns {missing}; it has {sorted(names)}")
        wanted |= {f"{name}_dtype" for name in tensors} | {"caption", *EXTRA}
        number = 0
        for batch in opened.iter_batches(GROUP_ROWS, columns=sorted(wanted & names)):
            for row in batch.to_pylist():
                yield _sample(row, f"{path} row {number}", options)
                number += 1


def _sample(row: Mapping[str, Any], origin: str, options: Options) -> Sample:
    fields: dict[str, Any] = {}
    if options.embeddings:
        prompt = tensor(row, "text_embedding", origin)
        fields["caption"] = embedding(prompt[0] if prompt.ndim == 3 else prompt)
    elif row.get("caption") is not None:
        fields["caption"] = row["caption"]
    names = [name for name in EXTRA if row.get(name) is not None]
    fields |= {name: row[name] for name in names if not (options.embeddings and name == "text")}
    return Sample(point(tensor(row, "vae_latent", origin)), fields, origin)


def _values(row: Row, options: Options) -> dict[str, Any]:
    """A row of the table."""
    latent = latent_of(row, options, "FastVideo's parquet")
    caption, entry = row.fields.get("caption", ""), row.entry
    prompt = np.empty((0, 0), np.float32)
    if isinstance(caption, Mapping):
        prompt = np.frombuffer(caption["data"], "<f2").reshape(caption["shape"]).astype(np.float32)
        caption = row.fields.get(WORDS, [""])[0]
    view = None if entry is None else entry.view
    frames = 1 if view is None else view.num_frames
    return {
        "id": f"{row.number:09d}" if entry is None else entry.key,
        **_as_columns("vae_latent", latent),
        **_as_columns("text_embedding", prompt),
        "file_name": "" if entry is None else entry.path,
        "caption": caption,
        "media_type": "video" if frames > 1 or latent.ndim == 4 else "image",
        "width": 0 if view is None else view.width,
        "height": 0 if view is None else view.height,
        "num_frames": frames,
        "duration_sec": 0.0,
        "fps": 0.0,
        **{
            name: row.fields[name]
            for name in EXTRA
            if isinstance(row.fields.get(name), str | int | float)
        },
    }


def _as_columns(name: str, values: np.ndarray) -> dict[str, Any]:
    data = np.ascontiguousarray(values, "<f4").tobytes()
    return {f"{name}_bytes": data, f"{name}_shape": list(values.shape), f"{name}_dtype": "float32"}


def _write_group(
    arrow: Any, parquet: Any, writer: Any, folder: str, number: int, rows: list[dict[str, Any]]
) -> Any:
    """Add rows to the open file, or to a new one. Returns the writer."""
    if writer is None:
        schema = _schema(arrow, rows[0])
        path = os.path.join(folder, "worker_0", f"data_chunk_{number}.parquet")
        writer = parquet.ParquetWriter(path, schema, compression="zstd")
    writer.write_table(arrow.Table.from_pylist(rows, schema=writer.schema))
    return writer


def _schema(arrow: Any, row: Mapping[str, Any]) -> Any:
    kinds = {bytes: arrow.binary(), str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    kinds[list] = arrow.list_(arrow.int64())
    return arrow.schema([(name, kinds[type(value)]) for name, value in row.items()])


def _pyarrow(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError("parquet needs pyarrow: pip install pyarrow") from error
