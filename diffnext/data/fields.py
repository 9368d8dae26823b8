# SPDX-License-Identifier: Apache-2.0
"""What may be known about a medium besides its pixels, checked against what a record can hold."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

FIELDS = ("caption", "text", "label", "flow")
EXACT = 2**53  # whole numbers below it pass through floating point unchanged


def parse_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the types of caption, text, label and flow. Empty cells count as absent.

    Raises:
        ValueError: a value of another type, a number that a record cannot hold (label: int64, flow:
            float32), or text that is not utf-8.
    """
    result = {}
    for name in FIELDS:
        value = values.get(name)
        if not is_empty(value):
            result[name] = _PARSERS[name](name, value)
    return result


def is_empty(value: Any) -> bool:
    """Whether a cell says nothing: None, blank text, or the NaN of tables with gaps."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


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
    "text": _parse_text,
    "label": _parse_whole,
    "flow": _parse_flow,
}
