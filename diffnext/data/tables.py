# SPDX-License-Identifier: Apache-2.0
"""Parquet and Arrow files: their rows in order, and single cells; with pyarrow, imported only here."""

from __future__ import annotations

import contextlib
import functools
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from diffnext.data import urls

ROWS = 1024  # that are taken out of a parquet file at a time
_lock = threading.Lock()  # of the caches below: threads that want one row group read it once


def read_cell(path: str, column: str, row: int) -> bytes | None:
    """The bytes of a column of bytes, or of the field `bytes` of a column of structs.

    The row group it lies in stays in memory until two others were asked for: rows that are read in
    order are decoded once.

    Raises:
        OSError, ValueError: no such file, row or column, or a damaged one.
    """
    version = urls.stamp(path)
    with _errors(path), _lock:
        if is_parquet(path):
            group, row = _find_group(path, version, row)
            values = _read_group(path, version, group, column)
        else:
            values = _open_table(path, version).column(column)
        value = values[row].as_py()
    return value["bytes"] if isinstance(value, dict) else value


def is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def schema(path: str) -> Any:
    """The pyarrow schema of a file."""
    version = urls.stamp(path)
    with _errors(path), _lock:
        if is_parquet(path):
            return _open_parquet(path, version).schema_arrow
        return _open_table(path, version).schema


def rows(path: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows as dicts of some columns."""
    for batch in _batches(path, columns):
        yield from batch.to_pylist() if columns else ({} for _ in range(batch.num_rows))


def paths(path: str, column: str) -> Iterator[str | None]:
    """The field `path` of a column of structs, row by row; None where there is none."""
    kind = schema(path).field(column).type
    has_paths = hasattr(kind, "get_field_index") and kind.get_field_index("path") >= 0
    if not has_paths:
        yield from (None for _ in filled(path, column))
        return
    name = f"{column}.path" if is_parquet(path) else column
    for batch in _batches(path, [name]):
        import pyarrow.compute

        yield from pyarrow.compute.struct_field(batch.column(0), "path").to_pylist()


def _batches(path: str, columns: Sequence[str]) -> Iterator[Any]:
    version = urls.stamp(path)
    with _errors(path):
        if is_parquet(path):
            yield from _open_parquet(path, version).iter_batches(ROWS, columns=list(columns))
        else:
            yield from _open_table(path, version).select(list(columns)).to_batches(ROWS)


def filled(path: str, column: str) -> Iterator[bool]:
    """Whether each row has bytes in a column. A parquet file is read for it only if some lack them."""
    version = urls.stamp(path)
    with _errors(path):
        if not is_parquet(path):
            for batch in _open_table(path, version).select([column]).to_batches():
                yield from _valid(batch.column(0))
            return
        file = _open_parquet(path, version)
        for group in range(file.metadata.num_row_groups):
            count, nulls = _nulls(file.metadata.row_group(group), column)
            if nulls in (0, count):
                yield from (nulls == 0 for _ in range(count))
            else:
                for batch in file.iter_batches(ROWS, row_groups=[group], columns=[column]):
                    yield from _valid(batch.column(0))


def _valid(values: Any) -> list[bool]:
    """Where an array of bytes, or of structs with `bytes`, is not null."""
    import pyarrow.compute

    if pyarrow.types.is_struct(values.type):
        values = pyarrow.compute.struct_field(values, "bytes")  # null where the struct is
    return values.is_valid().to_pylist()


def _nulls(group: Any, column: str) -> tuple[int, int | None]:
    """Rows of a row group, and how many have no bytes; None where the file does not say."""
    for number in range(group.num_columns):
        chunk = group.column(number)
        if chunk.path_in_schema in (column, f"{column}.bytes"):
            known = chunk.statistics
            return group.num_rows, known.null_count if known and known.has_null_count else None
    return group.num_rows, None


def _find_group(path: str, version: tuple[int, int], row: int) -> tuple[int, int]:
    """The row group that holds a row, and the number of the row in it."""
    ends = _group_ends(path, version)
    group = bisect_right(ends, row)
    if group == len(ends):
        raise ValueError(f"{path} has {ends[-1] if ends else 0} rows")
    return group, row - (ends[group - 1] if group else 0)


@functools.lru_cache(maxsize=8)
def _group_ends(path: str, version: tuple[int, int]) -> list[int]:
    """The number of the first row behind each row group."""
    metadata = _open_parquet(path, version).metadata
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return list(accumulate(group.num_rows for group in groups))


@functools.lru_cache(maxsize=2)
def _read_group(path: str, version: tuple[int, int], group: int, column: str) -> Any:
    return _open_parquet(path, version).read_row_group(group, columns=[column]).column(column)


@functools.lru_cache(maxsize=8)
def _open_parquet(path: str, version: tuple[int, int]) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(urls.open_file(path) if urls.is_url(path) else path)


@functools.lru_cache(maxsize=8)
def _open_table(path: str, version: tuple[int, int]) -> Any:
    """An Arrow file, of either kind, mapped to memory where it is local."""
    import pyarrow

    source = urls.open_file(path) if urls.is_url(path) else pyarrow.memory_map(path)
    try:
        return pyarrow.ipc.open_file(source).read_all()
    except pyarrow.ArrowInvalid:
        source.seek(0)
        return pyarrow.ipc.open_stream(source).read_all()


@contextlib.contextmanager
def _errors(path: str) -> Iterator[None]:
    """Name the file in errors of pyarrow, and say what to install without it."""
    try:
        import pyarrow
    except ImportError as error:
        raise ValueError(f"{path}: install pyarrow to read parquet and Arrow files") from error
    try:
        yield
    except (pyarrow.ArrowException, KeyError, IndexError) as error:
        raise ValueError(f"{path}: {error}") from error
