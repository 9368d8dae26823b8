# SPDX-License-Identifier: Apache-2.0
"""A folder tree: media with their captions in files beside them, tables of captions, tars and shards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from diffnext.data import urls
from diffnext.data.fields import FIELDS, parse_json
from diffnext.data.location import kind_of, of_path
from diffnext.data.sources.columns import Columns
from diffnext.data.sources.huggingface import (
    ARROW,
    STATE,
    arrow_files,
    check_splits,
    holds_media,
    list_table,
)
from diffnext.data.sources.listing import Failure, Listing
from diffnext.data.sources.manifest import name_of, place, read_rows
from diffnext.data.sources.webdataset import list_tar

COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|lzma|z)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
UNPACK = "a compressed tar; unpack it, as media are read from where they lie"
# Tables of a folder whose rows name files in it: those of Hugging Face, and FastVideo's.
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "videos2caption.json")


def list_folder(listing: Listing, root: str, columns: Columns) -> None:
    """List all media below a folder or URL in the order of their paths. Hidden files are left out."""
    if urls.is_url(root):
        paths = [path for path in urls.find(root) if not _is_hidden(path[len(root) :])]
    else:
        paths = []
        for path in walk(root, listing.failures):
            listing.tick("files")
            paths.append(path)
    paths.sort()
    check_splits(root, paths)
    beside = {path for path in paths if path.endswith((".txt", ".json"))}
    known = _table_rows(listing, paths, columns)
    for path in _without_leftovers(paths):
        suffix = os.path.splitext(path)[1].lower()
        if kind_of(path) is not None:
            _add_file(listing, path, beside, columns, known.pop(os.path.normpath(path), None))
        elif suffix == ".tar":
            list_tar(listing, path, columns)
        elif COMPRESSED.search(path):
            listing.fail(path, UNPACK)
        elif suffix in ARROW and not path.endswith(TABLES) and holds_media(listing, path, columns):
            list_table(listing, path, columns)
        elif suffix not in (*ARROW, ".txt", ".json") and not path.endswith(TABLES):
            listing.others[suffix] += 1
    for path, (where, _) in known.items():
        listing.fail(path, f"{where}: no such file")


def add_file(listing: Listing, path: str, columns: Columns) -> None:
    """Add one medium with the files beside it."""
    stem = os.path.splitext(path)[0]
    beside = {name for name in (f"{stem}.txt", f"{stem}.json") if os.path.isfile(name)}
    _add_file(listing, path, beside, columns, None)


def _add_file(
    listing: Listing,
    path: str,
    beside: set[str],
    columns: Columns,
    known: tuple[str, dict[str, Any]] | None,
) -> None:
    """Add a medium with the fields of name.txt (the caption), name.json, and its row of a table.

    What comes later replaces what came before, unless it is empty.
    """
    values: dict[str, Any] = {}
    stem = os.path.splitext(path)[0]
    where = "beside the file"
    try:
        if (name := f"{stem}.txt") in beside:
            where = name
            values["caption"] = read_text(name).strip()
        if (name := f"{stem}.json") in beside:
            where = name
            values.update(columns.fields(_read_object(name)))
    except (OSError, ValueError) as error:
        listing.fail(path, f"{where}: {error}")
        return
    if known is not None:
        where, row = known
        values.update(columns.fields(row))
    listing.add(of_path(path), values, where=where)


def read_text(path: str) -> str:
    """A text file in utf-8, with a byte order mark or without."""
    return urls.read(path).decode("utf-8-sig")


def _read_object(path: str) -> dict[str, Any]:
    value = parse_json(read_text(path))
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} found, an object with {FIELDS} is wanted")
    return value


def _table_rows(
    listing: Listing, paths: list[str], columns: Columns
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Path of a medium -> place and row in a table of its folder."""
    present, known = set(paths), {}
    for table in (path for path in paths if os.path.basename(path) in TABLES):
        for where, row in _rows(table, columns):
            try:
                name = name_of(row, columns)
            except ValueError as error:
                listing.fail(table, f"{where}: {error}")
                continue
            path = place(table, os.path.dirname(table), name, present.__contains__)
            known[os.path.normpath(path)] = (f"{os.path.basename(table)} {where}", row)
    return known


def _rows(table: str, columns: Columns) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """The rows of a table of a folder.

    Raises:
        ValueError: it cannot be read. The media could be, but not with the captions they should have.
    """
    try:
        yield from read_rows(table, columns)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{error}; captions or labels of this folder are in {os.path.basename(table)}: mend it, or "
            "move it away to do without them"
        ) from error


def _without_leftovers(paths: list[str]) -> Iterator[str]:
    """All paths but the Arrow files that a saved data set does not name, such as those of its caches."""
    tables = {os.path.dirname(path) for path in paths if path.endswith(".arrow")}
    states = [urls.join(folder, STATE) for folder in sorted(tables)]
    named = {path: arrow_files(path) for path in {*states} & {*paths}}
    saved = {os.path.dirname(path) for path in named}
    kept = {path for files in named.values() for path in files}
    for path in paths:
        if not path.endswith(".arrow") or os.path.dirname(path) not in saved or path in kept:
            yield path


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def walk(root: str, failures: list[Failure]) -> Iterator[str]:
    """All files below `root`, through links to folders too, each folder once; no hidden ones.

    Folders that cannot be read are added to `failures`.
    """

    def note(error: OSError) -> None:
        folder = os.fspath(error.filename)
        failures.append(Failure(folder, "scan", f"folder cannot be read: {error}"))

    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=note):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(folder, name) for name in files if not name.startswith("."))
