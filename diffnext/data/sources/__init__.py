# SPDX-License-Identifier: Apache-2.0
"""Where media and their captions come from: folders, manifests, data sets, tars, local or by URL."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from diffnext.data import urls
from diffnext.data.fetching import FetchError
from diffnext.data.location import kind_of
from diffnext.data.sources.columns import Columns, parse_columns
from diffnext.data.sources.folder import COMPRESSED, UNPACK, add_file, list_folder, walk
from diffnext.data.sources.huggingface import ARROW, list_table, media_column
from diffnext.data.sources.listing import Failure, Listing, Source
from diffnext.data.sources.manifest import MANIFESTS, list_manifest
from diffnext.data.sources.webdataset import expand, list_tar

__all__ = ["Failure", "Listing", "Source", "parse_columns", "scan", "walk"]


def scan(
    path: str,
    columns: Mapping[str, str] | None = None,
    *,
    tick: Callable[[str], None] = lambda what: None,
) -> Listing:
    """List what an input holds.

    Args:
        path: a folder (with its sub-folders), a manifest (.csv, .jsonl, .json, .parquet), a table of
            media (.parquet, .arrow), a tar, a pattern of these such as shards-{0000..0009}.tar or
            train-*.parquet, or a single medium; a local path or a URL.
        columns: field -> column, for tables whose columns have names of their own.
        tick: see `Listing`.

    Raises:
        ValueError: nothing there, or a manifest that cannot be had or read at all.
    """
    listing = Listing(tick=tick)
    parts = [path] if os.path.exists(path) else expand(path)
    for part in parts:
        try:
            for found in _matching(part):
                _scan_one(listing, found, Columns(columns or {}))
        except FileNotFoundError as error:  # of a server; it says no more than the URL
            raise ValueError(
                f"--input {part}: its server has no such file, or asks who wants it ({error})"
            ) from error
        except FetchError as error:
            raise ValueError(f"--input {error}") from error
    return listing


def _matching(pattern: str) -> list[str]:
    """The files that a pattern with `*` stands for; itself where there are none, or no `*`."""
    if "*" not in pattern or os.path.exists(pattern):
        return [pattern]
    escaped = re.sub(r"[?[]", r"[\g<0>]", pattern)  # which names may have, and patterns elsewhere
    if not urls.is_url(pattern):
        return sorted(glob.glob(escaped)) or [pattern]
    folder, name = os.path.dirname(pattern), os.path.basename(escaped)
    found = [path for path in urls.find(folder) if os.path.dirname(path) == folder]
    return sorted(path for path in found if fnmatchcase(os.path.basename(path), name)) or [pattern]


def _scan_one(listing: Listing, path: str, columns: Columns) -> None:
    remote = urls.is_url(path)
    if urls.is_folder(path) if remote else os.path.isdir(path):
        return list_folder(listing, path, columns)
    if not remote and not os.path.isfile(path):
        raise ValueError(f"--input {path}: no such file or folder")
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".tar":
        return list_tar(listing, path, columns)
    if suffix == ".arrow" or (suffix == ".parquet" and media_column(path, columns)):
        return list_table(listing, path, columns)
    if suffix in MANIFESTS:
        return list_manifest(listing, path, columns)
    if COMPRESSED.search(path):
        raise ValueError(f"--input {path}: {UNPACK}")
    if kind_of(path) is None:
        known = ", ".join(sorted({*MANIFESTS, *ARROW, ".tar"}))
        raise ValueError(f"--input {path}: a folder, a medium or one of {known} is wanted")
    return add_file(listing, path, columns)
