# SPDX-License-Identifier: Apache-2.0
"""Where media and their captions come from: a folder with files beside each medium, or a manifest."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffnext.data.fields import FIELDS, is_empty, parse_fields
from diffnext.data.media import kind_of

MANIFESTS = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Source:
    """A picture or a video and what is known about it."""

    path: str
    caption: str | None = None  # long
    text: str | None = None  # short
    label: int | None = None
    flow: float | None = None  # motion score of a video

    def fields(self) -> dict[str, Any]:
        """The fields that are known, by name."""
        known = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Failure:
    """A medium that does not come into the cache because of an error."""

    file: str
    stage: str  # "scan", "probe", "decode" or "encode"
    reason: str


@dataclass
class Listing:
    """What a folder or a manifest holds."""

    sources: list[Source] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add(self, path: str, values: Mapping[str, Any], *, where: str) -> None:
        """Add a medium, or the reason why its fields cannot be used."""
        try:
            self.sources.append(Source(path, **parse_fields(values)))
        except ValueError as error:
            self.failures.append(Failure(path, "scan", f"{where}: {error}"))


def scan(path: str) -> Listing:
    """List a folder (with its sub-folders), a manifest (.csv, .jsonl, .parquet) or a single medium.

    Raises:
        ValueError: nothing there, or a manifest that cannot be read at all.
    """
    if os.path.isdir(path):
        return scan_folder(path)
    if not os.path.isfile(path):
        raise ValueError(f"--input {path}: no such file or folder")
    if Path(path).suffix.lower() in MANIFESTS:
        return scan_manifest(path)
    if kind_of(path) is None:
        raise ValueError(f"--input {path}: a folder, a medium or one of {MANIFESTS} is wanted")
    listing = Listing()
    _add_file(listing, path)
    return listing


def scan_folder(root: str) -> Listing:
    """List all media below `root` in the order of their paths. Hidden files are left out."""
    listing = Listing()
    for path in sorted(walk(root, listing.failures)):
        if kind_of(path) is not None:
            _add_file(listing, path)
    return listing


def scan_manifest(path: str) -> Listing:
    """List the rows of a table with a column `path` or `file` and any of caption, text, label, flow.

    Relative paths start at the folder of the manifest; other columns are left out.
    """
    listing = Listing()
    base = os.path.dirname(os.path.abspath(path))
    for where, row in _rows(path):
        if isinstance(row, str):
            listing.failures.append(Failure(path, "scan", f"{where}: {row}"))
            continue
        name = row.get("path") or row.get("file")
        if not isinstance(name, str):
            listing.failures.append(Failure(path, "scan", f"{where}: {_without_path(row)}"))
            continue
        medium = os.path.join(base, name)
        if kind_of(medium) is None:
            reason = f"{where}: {Path(name).suffix!r} is not the suffix of a picture or video"
            listing.failures.append(Failure(medium, "scan", reason))
            continue
        listing.add(medium, row, where=where)
    return listing


def _without_path(row: Mapping[str, Any]) -> str:
    """Say why a row leads to no medium."""
    named = [name for name in ("path", "file") if name in row]
    if not named:
        return f"no column path or file, there are {sorted(map(str, row))}"
    name, value = named[0], row[named[0]]
    if is_empty(value):
        return f"nothing in the column {name}"
    return f"{name} is {value!r}, the path of a medium is wanted"


def _add_file(listing: Listing, path: str) -> None:
    """Add a medium with the fields of name.txt (the caption) and name.json beside it."""
    values: dict[str, Any] = {}
    stem = Path(path).with_suffix("")
    where = ""
    try:
        if os.path.isfile(where := f"{stem}.txt"):
            values["caption"] = _read_text(where).strip()
        if os.path.isfile(where := f"{stem}.json"):
            held = _read_object(where)
            values.update({name: value for name, value in held.items() if not is_empty(value)})
    except (OSError, ValueError) as error:
        listing.failures.append(Failure(path, "scan", f"{where}: {error}"))
        return
    listing.add(path, values, where="beside the file")


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8-sig") as file:
        return file.read()


def _read_object(path: str) -> dict[str, Any]:
    value = json.loads(_read_text(path))
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} found, an object with {FIELDS} is wanted")
    return value


def walk(root: str, failures: list[Failure]) -> Iterator[str]:
    """All files below `root`, through links to folders too, each folder once; no hidden ones.

    Folders that cannot be read are added to `failures`.
    """

    def note(error: OSError) -> None:
        failures.append(
            Failure(os.fspath(error.filename), "scan", f"folder cannot be read: {error}")
        )

    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=note):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(folder, name) for name in files if not name.startswith("."))


def _rows(path: str) -> Iterable[tuple[str, dict[str, Any] | str]]:
    """Pairs of a place and a row of a manifest; a row that cannot be read is the reason for it."""
    suffix = Path(path).suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path)
    return _csv_rows(path) if suffix == ".csv" else _jsonl_rows(path)


def _csv_rows(path: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, restkey="")
        try:
            for row in reader:
                yield f"line {reader.line_num}", row
        except csv.Error as error:  # what follows cannot be told apart from the damage
            raise ValueError(f"--input {path} line {reader.reader.line_num}: {error}") from error


def _jsonl_rows(path: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            yield f"line {number}", _json_row(line)


def _json_row(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        return f"not a line of JSON in utf-8: {error}"
    return row if isinstance(row, dict) else f"{type(row).__name__} found, an object is wanted"


def _parquet_rows(path: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"--input {path}: install pyarrow to read parquet") from error
    try:
        table = pyarrow.parquet.ParquetFile(path)
        wanted = [name for name in ("path", "file", *FIELDS) if name in table.schema_arrow.names]
        number = 0
        for batch in table.iter_batches(columns=wanted):
            for row in batch.to_pylist():
                yield f"row {number}", row
                number += 1
    except pyarrow.ArrowException as error:
        raise ValueError(f"--input {path}: {error}") from error
