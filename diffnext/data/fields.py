# SPDX-License-Identifier: Apache-2.0
"""What may be known about a medium besides its pixels, checked against what a record can hold."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

FIELDS = ("caption", "captions", "text", "label", "flow")
EXACT = 2**53  # whole numbers below it pass through floating point unchanged


def parse_json(text: str | bytes) -> Any:
    """A value written as JSON.

    Raises:
        ValueError: it is none, or is nested deeper than can be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def parse_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the types of caption, captions, text, label and flow. Empty cells count as absent.

    Captions come in any of three places: text or a list in `caption`, a list (or one written as JSON)
    in `captions`, a list in `text`. The first becomes `caption`; where there are several, all of
    them become `captions`.

    Raises:
        ValueError: a value of another type, a number that a record cannot hold (label: int64, flow:
            float32), or text that is not utf-8.
    """
    result: dict[str, Any] = {}
    captions: list[str] = []
    for name in FIELDS:
        value = values.get(name)
        if is_empty(value):
            continue
        if name == "captions" and isinstance(value, str):
            value = _parse_json_list(name, value)
        if isinstance(value, list | tuple):
            captions += _parse_texts(name, value)
        else:
            result[name] = _PARSERS[name](name, value)
    first = [result["caption"]] if "caption" in result else []
    return {**result, **_first_and_all([*first, *captions])}


def is_empty(value: Any) -> bool:
    """Whether a cell says nothing: None, blank text, the NaN of tables with gaps, a list of those."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return value is None or (isinstance(value, float) and math.isnan(value))


def _first_and_all(captions: list[str]) -> dict[str, Any]:
    """`caption`, and `captions` where several are not the same."""
    different = tuple(dict.fromkeys(captions))
    if len(different) > 1:
        return {"caption": different[0], "captions": different}
    return {"caption": different[0]} if different else {}


def _parse_texts(name: str, values: list[Any] | tuple[Any, ...]) -> list[str]:
    if name not in ("caption", "captions", "text"):
        raise ValueError(f"{name} is {values!r}, one value is wanted")
    return [
        _parse_text(f"{name}[{number}]", value)
        for number, value in enumerate(values)
        if not is_empty(value)
    ]


def _parse_json_list(name: str, value: str) -> list[Any]:
    """A list as csv can hold it: ["one", "two"]."""
    try:
        found = parse_json(value)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise ValueError(f'{name} is {value!r}, a list is wanted: ["one", "two"]')
    return found


def _parse_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, text is wanted")
    return _checked_text(name, value)


def _parse_whole(name: str, value: Any) -> int:
    """An int64. Whole numbers never pass through floating point, which would round large ones."""
    number = _exact_int(value)
    if number is None:
        number = _parse_float(name, value)
        if number != int(number):
            raise ValueError(f"{name} is {value!r}, a whole number is wanted")
        if abs(number) >= EXACT:
            raise ValueError(f"{name} is {value!r}, which may be rounded; write all its digits")
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} is {value!r}, beyond the range of int64")
    return int(number)


def _exact_int(value: Any) -> int | None:
    """The value of an int, or of its digits as text; None for anything else."""
    if not isinstance(value, int | str) or isinstance(value, bool):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def _parse_flow(name: str, value: Any) -> float:
    number = _parse_float(name, value)
    try:
        struct.pack("<f", number)
    except OverflowError as error:
        raise ValueError(f"{name} is {value!r}, beyond the range of float32") from error
    return number


def _parse_float(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}, a number is wanted")
    return number


def _checked_text(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not utf-8 at character {error.start}") from error
    return value.strip()


_PARSERS = {
    "caption": _parse_text,
    "captions": _parse_text,
    "text": _parse_text,
    "label": _parse_whole,
    "flow": _parse_flow,
}
