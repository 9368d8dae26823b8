# SPDX-License-Identifier: Apache-2.0
"""Tables that hold the media themselves: parquet shards and saved data sets of Hugging Face.

A medium is a column of bytes, or of structs {bytes, path}. Its kind is what the features in the schema
say, else what the name of the column does. The package `datasets` is not needed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from diffnext.data import tables, urls
from diffnext.data.fields import parse_json
from diffnext.data.location import Cell, kind_of, of_path
from diffnext.data.sources.columns import Columns
from diffnext.data.sources.listing import Listing

ARROW = (".parquet", ".arrow")
STATE, SPLITS = "state.json", "dataset_dict.json"  # of a data set that was saved to a folder
# Splits as the shards of data sets on the hub have them: train-00000-of-00002.parquet
SHARD = re.compile(r"/(train|val|valid|validation|dev|eval|test)-\d+-of-\d+[^/]*\.parquet$")
KINDS = {
    "image": "image",
    "img": "image",
    "picture": "image",
    "jpg": "image",
    "png": "image",
    "webp": "image",
    "video": "video",
    "clip": "video",
    "mp4": "video",
}


def check_splits(root: str, paths: Sequence[str]) -> None:
    """Refuse a folder of several splits: one of them is for training.

    Args:
        paths: all files below it.

    Raises:
        ValueError: with the folders, or patterns of files, to choose from.
    """
    path = urls.join(root, SPLITS)
    if path in paths:
        splits = _read_object(path).get("splits", [])
        if len(splits) > 1:
            raise _several(root, [urls.join(root, split) for split in splits])
    found = {match[1]: path for path in paths if (match := SHARD.search(path))}
    if len(found) > 1:
        kinds = [f"{os.path.dirname(path)}/{split}-*.parquet" for split, path in found.items()]
        raise _several(root, kinds)


def _several(root: str, choice: Sequence[str]) -> ValueError:
    return ValueError(f"--input {root} has several splits; give one of {', '.join(choice)}")


def arrow_files(state: str) -> list[str]:
    """The Arrow files that the state of a saved data set names.

    Raises:
        ValueError: it cannot be read, or the data set is a selection of the rows in them.
    """
    held = _read_object(state)
    if held.get("_indices_data_files"):
        raise ValueError(f"{state}: a selection of rows; save it anew after flatten_indices()")
    files = held.get("_data_files") or []
    return [urls.join(os.path.dirname(state), file["filename"]) for file in files]


def _read_object(path: str) -> dict[str, Any]:
    try:
        held = parse_json(urls.read(path).decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON in utf-8: {error}; mend it, or remove it") from error
    if not isinstance(held, dict):
        raise ValueError(f"{path}: {type(held).__name__} found, an object is wanted")
    return held


def holds_media(listing: Listing, path: str, columns: Columns) -> bool:
    """Whether a table holds media, and not only their paths; one that cannot be read is a failure."""
    try:
        return media_column(path, columns) is not None
    except (OSError, ValueError) as error:
        listing.fail(path, str(error))
        return False


def media_column(path: str, columns: Columns) -> tuple[str, str] | None:
    """Name and kind ("image" or "video") of the column with the media; None if there is none.

    Raises:
        ValueError: several, and none was chosen.
    """
    schema = tables.schema(path)
    features = _features(schema.metadata)
    found = {}
    for column in schema:
        kind = _kind(column.name, features) if _holds_bytes(column.type) else None
        if kind is not None:
            found[column.name] = kind
    if "path" in columns.chosen:
        found = {name: kind for name, kind in found.items() if name == columns.chosen["path"]}
    if len(found) > 1:
        names = ", ".join(found)
        raise ValueError(
            f"{path} has media in {names}; choose one: --columns path={next(iter(found))}"
        )
    return next(iter(found.items()), None)


def list_table(listing: Listing, path: str, columns: Columns) -> None:
    """List the rows of a table that holds media. Where a row has a path alone, that file is taken."""
    found = media_column(path, columns)
    if found is None:
        raise ValueError(f"--input {path}: no column of it holds pictures or videos")
    column, kind = found
    names = tables.schema(path).names
    wanted = [name for name in columns.wanted(names) if name != column]
    paths = tables.paths(path, column)
    rows = zip(tables.filled(path, column), paths, tables.rows(path, wanted), strict=True)
    for number, (is_filled, name, row) in enumerate(rows):
        where = f"row {number}"
        if is_filled:
            listing.add(Cell(path, column, number, kind), columns.fields(row), where=where)
        elif name and kind_of(name) is not None:
            medium = of_path(urls.join(os.path.dirname(path), name))
            listing.add(medium, columns.fields(row), where=where)
        else:
            listing.fail(path, f"{where}: nothing in the column {column}")


def _features(metadata: Any) -> dict[str, Any]:
    """The features that `datasets` keeps in a schema."""
    text = (metadata or {}).get(b"huggingface")
    return json.loads(text)["info"]["features"] if text else {}


def _kind(name: str, features: dict[str, Any]) -> str | None:
    feature = features.get(name)
    said = feature.get("_type") if isinstance(feature, dict) else None
    if said in ("Image", "Video"):
        return said.lower()
    return KINDS.get(name.lower())


def _holds_bytes(kind: Any) -> bool:
    """Whether a pyarrow type is one of bytes, or of structs with `bytes`."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
