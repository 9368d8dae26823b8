# SPDX-License-Identifier: Apache-2.0
"""Caches in layouts of other software: taken in, and given out, a sample at a time."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from diffnext.data.cache_identity import IDENTITY_VERSION
from diffnext.data.parse import moments
from diffnext.data.progress import Progress, silent
from diffnext.data.prompt_cache import EMBEDDING
from diffnext.data.records import read_identity, write_identity
from diffnext.data.records.folder_writer import FolderWriter
from diffnext.data.records.identity import LINEAGE
from diffnext.data.tools.algebra import entries_or_none
from diffnext.data.tools.draft import draft
from diffnext.data.tools.exchange.sample import Options, Row, Sample, is_embedded, stored
from diffnext.data.tools.lineage import derived
from diffnext.data.tools.opening import Cache
from diffnext.data.urls import is_url

LAYOUTS = ("fastvideo", "lightningdit", "mar", "webdataset")
ORDER = ("caption", "captions", "text", "label", "flow", "flip")


def import_cache(
    layout: str,
    source: str,
    output: str,
    *,
    options: Options | None = None,
    made: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> int:
    """Make a cache of what other software has stored. It appears when it is complete; see `draft`.

    The identity says that it was imported, and what is not known; that of an exported cache, which lies
    beside the samples, is taken over.

    Args:
        layout: one of `LAYOUTS`.
        made: what the user knows of it, for the identity: `vae`, `strides`.

    Returns:
        How many records it has.

    Raises:
        FileNotFoundError, ValueError: nothing there, samples that a record cannot represent, with file
            and reason, or an output that exists.
    """
    if is_url(source):
        raise ValueError(f"{source} is behind a URL; copy what is to be imported to a folder")
    if not os.path.exists(source):
        raise FileNotFoundError(f"{source} does not exist")
    module = load(layout)
    options = options or Options()
    samples, total, known = module.read(source, options)
    identity = _identity(module, layout, source, {**(made or {}), "imported": known})
    with draft(output) as folder, contextlib.ExitStack() as stack:
        writer: FolderWriter | None = None
        for sample in progress(samples, total, "import"):
            if writer is None:
                types = _types(sample.fields)
                write_identity(folder, {**identity, "fields": list(types)})
                fields = {"shape": ["int64"], "moments": "bytes", **types}
                writer = stack.enter_context(FolderWriter(folder, fields))
            writer.write(_record(sample, types))
        if writer is None:
            raise ValueError(f"{source} holds no sample")
        count = len(writer)
    return count


def export_cache(
    path: str,
    layout: str,
    output: str,
    *,
    options: Options | None = None,
    progress: Progress = silent,
) -> tuple[int, list[str]]:
    """Write the records of a cache in another layout; they appear when they are complete.

    Returns:
        How many records, and remarks on what the other software will miss.

    Raises:
        ValueError: records that the layout cannot represent, a damaged one, or an output that exists.
    """
    module, options = load(layout), options or Options()
    cache = Cache(path)
    rows = progress(_rows(cache), len(cache), "export")
    told = {"layout": layout, **({"means": True} if options.means else {})}
    with draft(output) as folder:
        remarks = module.write(folder, rows, options)
        identity = derived([cache], "export", told)
        if "posterior" in module.KNOWN:
            identity["posterior"] = module.KNOWN["posterior"]
        write_identity(folder, identity)
    return len(cache), remarks


def load(layout: str) -> ModuleType:
    """The module of a layout.

    Raises:
        ValueError: there is none of this name.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    return importlib.import_module(f"diffnext.data.tools.exchange.{layout}")


def _identity(
    module: ModuleType, layout: str, source: str, made: Mapping[str, Any]
) -> dict[str, Any]:
    beside = read_identity(source) if os.path.isdir(source) else None
    if beside is not None:
        origin = {"path": os.path.abspath(source), LINEAGE: beside.get(LINEAGE)}
        step = {"made_by": "diffnext cache import", "options": {"layout": layout}, "of": [origin]}
        return {**beside, LINEAGE: step}
    identity = {"version": IDENTITY_VERSION, **module.KNOWN, **made}
    unknown = [key for key in ("vae", "strides", "normalisation", "rules") if key not in identity]
    identity["dtype"] = {"store": "float16"}
    about = {"layout": layout, "source": os.path.abspath(source), "unknown": unknown}
    return {**identity, "imported": {**about, **made["imported"]}}


def _ordered(fields: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    names = [name for name in ORDER if name in fields]
    return [(name, fields[name]) for name in [*names, *sorted(fields.keys() - set(names))]]


def _types(fields: Mapping[str, Any]) -> dict[str, Any]:
    types = {name: _type(value) for name, value in _ordered(fields)}
    if is_embedded(fields.get("caption")) and fields.get("captions") == []:
        types["captions"] = [EMBEDDING]  # which other samples have
    return types


def _type(value: Any) -> Any:
    if isinstance(value, Mapping):
        return EMBEDDING
    if isinstance(value, list | tuple):
        return [EMBEDDING if is_embedded(value) else "string"]
    return {str: "string", int: "int64", float: "float32"}[type(value)]


def _record(sample: Sample, types: Mapping[str, Any]) -> dict[str, Any]:
    if sample.fields.keys() != types.keys():
        raise ValueError(
            f"{sample.origin} has the fields {sorted(sample.fields)}, the samples before it "
            f"{sorted(types)}; all must have the same"
        )
    values = stored(sample)
    return {"shape": list(values.shape), "moments": values.tobytes(), **sample.fields}


def _rows(cache: Cache) -> Iterator[Row]:
    for number, entry in enumerate(entries_or_none(cache)):
        record = cache.reader[number]
        values = moments(record).reshape(record["shape"])
        rest = {n: value for n, value in record.items() if n not in ("shape", "moments")}
        yield Row(number, values, rest, entry)
