# SPDX-License-Identifier: Apache-2.0
"""Tables with a row for each medium: csv, JSON lines, a JSON list, parquet."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from diffnext.data import tables, urls
from diffnext.data.fields import parse_json
from diffnext.data.location import of_path
from diffnext.data.sources.columns import Columns
from diffnext.data.sources.listing import Listing

MANIFESTS = (".csv", ".jsonl", ".json", ".parquet")

Rows = Iterator[tuple[str, dict[str, Any] | str]]


def list_manifest(listing: Listing, path: str, columns: Columns) -> None:
    """List the rows of a table that name media. Relative paths start at the folder of the table."""
    base = os.path.dirname(path if urls.is_url(path) else os.path.abspath(path))
    for where, row in read_rows(path, columns):
        try:
            name = name_of(row, columns)
        except ValueError as error:
            listing.fail(path, f"{where}: {error}")
            continue
        location = of_path(place(path, base, name, _exists))
        if location.kind is None:
            suffix = os.path.splitext(name)[1]
            reason = f"{where}: {suffix!r} is not the suffix of a picture or video"
            listing.fail(str(location), reason)
            continue
        listing.add(location, columns.fields(row), where=where)


def read_rows(path: str, columns: Columns) -> Iterable[tuple[str, dict[str, Any] | str]]:
    """Pairs of a place and a row of a table; a row that cannot be read is the reason for it.

    Raises:
        OSError, ValueError: a table that cannot be read at all.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".parquet":
        return _parquet_rows(path, columns)
    return {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".json": _json_rows}[suffix](path)


def name_of(row: Mapping[str, Any] | str, columns: Columns) -> str:
    """The path of its medium that a row states.

    Raises:
        ValueError: none; or the row is the reason why it could not be read.
    """
    if isinstance(row, str):
        raise ValueError(row)
    column = columns.find("path", row)
    if column is None:
        raise ValueError(_without_path(row, columns))
    if not isinstance(row[column], str):
        raise ValueError(f"{column} is {row[column]!r}, the path of a medium is wanted")
    return row[column]


def place(table: str, base: str, name: str, exists: Callable[[str], bool]) -> str:
    """Where the medium of a row is: beside its table, or in `videos` beside a list in JSON."""
    path = urls.join(base, name)
    if table.endswith(".json") and not exists(path):
        other = urls.join(urls.join(base, "videos"), name)
        if exists(other):
            return other
    return path


def _exists(path: str) -> bool:
    return urls.is_url(path) or os.path.exists(path)


def _without_path(row: Mapping[str, Any], columns: Columns) -> str:
    """Say why a row leads to no medium."""
    named = [name for name in columns.names("path") if name in row]
    if named:
        return f"nothing in the column {named[0]}"
    wanted = " or ".join(columns.names("path")[:2])
    return f"no column {wanted}, there are {sorted(map(str, row))}"


def _csv_rows(path: str) -> Rows:
    with urls.open_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.DictReader(text, restkey="", strict=True)  # or it reads on past a lost quote
        try:
            for row in reader:
                yield f"line {reader.line_num}", row
        except csv.Error as error:  # what follows cannot be told apart from the damage
            raise ValueError(f"--input {path} line {reader.reader.line_num}: {error}") from error


def _jsonl_rows(path: str) -> Rows:
    with urls.open_file(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", _json_row(line)


def _json_row(line: bytes) -> dict[str, Any] | str:
    try:
        return _checked_row(parse_json(line.decode("utf-8-sig")))
    except ValueError as error:
        return f"not a line of JSON in utf-8: {error}"


def _checked_row(row: Any) -> dict[str, Any] | str:
    return row if isinstance(row, dict) else f"{type(row).__name__} found, an object is wanted"


def _json_rows(path: str) -> Rows:
    try:
        values = parse_json(urls.read(path).decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"--input {path}: not JSON in utf-8: {error}") from error
    if not isinstance(values, list):
        raise ValueError(f"--input {path}: {type(values).__name__} found, a list is wanted")
    for number, row in enumerate(values):
        yield f"entry {number}", _checked_row(row)


def _parquet_rows(path: str, columns: Columns) -> Rows:
    wanted = columns.wanted(tables.schema(path).names)
    for number, row in enumerate(tables.rows(path, wanted)):
        yield f"row {number}", row
