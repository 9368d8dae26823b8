# SPDX-License-Identifier: Apache-2.0
"""Which fields the records of a cache have; all have the same, so sources are made to agree."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from diffnext.data.prompt_cache import embedded_types
from diffnext.data.sources import Failure, Listing, Source

TYPES = {
    "caption": "string",
    "captions": ["string"],
    "text": "string",
    "label": "int64",
    "flow": "float64",
}
WORDS = {"caption", "captions", "text"}


def record_types(names: Sequence[str], *, embedded: bool = False) -> dict[str, Any]:
    """The types of the fields of a record, its moments included.

    Args:
        embedded: whether captions are stored as embeddings.
    """
    types = {"shape": ["int64"], "moments": "bytes", **{name: TYPES[name] for name in names}}
    return embedded_types(types) if embedded else types


def field_names(
    listing: Listing, computed: Collection[str] = (), held: Collection[str] = ()
) -> list[str]:
    """Names of the fields that the records of the listed sources have; both captions or none.

    Args:
        computed: fields that the build adds where they are missing.
        held: fields of the cache that is added to; they stay what they are as long as any of the
            sources can have them.

    Raises:
        ValueError: no source at all, or none with anything to condition on; with the first failures.
    """
    failed = _first_failures(listing.failures)
    if not listing.sources:
        others = f"; {listing.others_in_words()}" if listing.others else ""
        raise ValueError(f"--input: no picture or video in it that can be used{others}{failed}")
    found = {name for source in listing.sources for name in source.fields()} | set(computed)
    if not found & {*WORDS, "label"}:
        raise ValueError(
            f"--input: none of {len(listing.sources)} media has a caption or a label; put name.txt "
            "or name.json beside each, or give a manifest with the columns path and caption"
            f"{failed}"
        )
    if found & WORDS:
        found |= {"caption", "text"}
    if held and found != {*held} and any(_fits(s, held, computed) for s in listing.sources):
        found = {*held}
    return [name for name in TYPES if name in found]


def complete(
    sources: Sequence[Source],
    names: Sequence[str],
    computed: Collection[str],
    failures: list[Failure],
) -> list[Source]:
    """Give the sources the fields that all records have; add those that have others to `failures`."""
    whole = []
    for source in sources:
        filled = _filled(source, names)
        missing, added = _missing(filled, names, computed), _added(source, names)
        if missing:
            reason = f"no {' and no '.join(missing)}, which others have"
            failures.append(Failure(source.path, "scan", reason))
        elif added:
            reason = (
                f"{' and '.join(added)}, which the records of this cache do not have; leave that out, "
                "or build into another folder"
            )
            failures.append(Failure(source.path, "scan", reason))
        else:
            whole.append(filled)
    return whole


def _fits(source: Source, names: Collection[str], computed: Collection[str]) -> bool:
    """Whether a record of these fields can be made of a source, and tells all that is known of it."""
    return not (_missing(_filled(source, names), names, computed) or _added(source, names))


def _missing(source: Source, names: Collection[str], computed: Collection[str]) -> list[str]:
    """Fields that a source lacks and the build does not compute."""
    return [name for name in names if name not in computed and getattr(source, name) is None]


def _added(source: Source, names: Collection[str]) -> list[str]:
    """Fields that a source has beyond these, in words."""
    added = [name for name in source.fields() if name not in names]
    return ["several captions" if name == "captions" else name for name in added]


def _filled(source: Source, names: Collection[str]) -> Source:
    """What follows from the other fields of a source."""
    values: dict[str, Any] = {}
    if "caption" in names:
        values["caption"] = source.caption or source.text
        values["text"] = source.text or ""
    if "captions" in names and source.captions is None and values["caption"]:
        values["captions"] = (values["caption"],)
    if "flow" in names and source.location.kind == "image":
        values["flow"] = source.flow or 0.0  # a picture does not move
    return replace(source, **values)


def _first_failures(failures: Sequence[Failure]) -> str:
    """The first three in words, to end a message with; "" if there are none."""
    if not failures:
        return ""
    lines = [f"\n  {failure.file}: {failure.reason}" for failure in failures[:3]]
    more = f"\n  and {len(failures) - 3} more" if len(failures) > 3 else ""
    return f"; {len(failures)} failed:{''.join(lines)}{more}"
