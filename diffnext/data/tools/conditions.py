# SPDX-License-Identifier: Apache-2.0
"""Conditions on records, in words: label=3,5  flow>=2.5  caption~"red (cat|dog)"  source=*/birds/*.

name      a field of the records, or one of
            shape             8x64x64, as stored
            frames, height, width   of the latents
            source            the path that the journal has
            flip              1 if the record is mirrored, by the journal
            record            the number of the record
operator  =  !=  one of several values, or none of them; for text and paths with * and ?
          <  <=  >  >=  numbers
          ~  !~  a regular expression that is found, or not
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OPERATORS = ("!=", "<=", ">=", "!~", "=", "<", ">", "~")  # longer ones first
OF_SHAPE = ("shape", "frames", "height", "width")
OF_JOURNAL = ("source", "flip")
OF_PLACE = (*OF_SHAPE, *OF_JOURNAL, "record")
NUMBERS = ("INT64", "FLOAT32")


@dataclass(frozen=True)
class Condition:
    """A field, and what is asked of it."""

    text: str  # as it was written
    name: str
    holds: Callable[[Any], bool]


def parse_condition(text: str, fields: Mapping[str, Any]) -> Condition:
    """Read a condition.

    Args:
        fields: of the records: name -> type.

    Raises:
        ValueError: it is none; with what there is.
    """
    match = re.match(r"\s*([\w.]+)\s*(!=|<=|>=|!~|=|<|>|~)(.*)", text, re.DOTALL)
    if not match:
        raise ValueError(f"{text!r}: NAME OPERATOR VALUE is wanted, with one of {list(OPERATORS)}")
    name, operator, value = match[1], match[2], match[3].strip()
    kind = _kind(name, fields, text)
    if operator in ("~", "!~"):
        return Condition(text, name, _pattern(text, kind, value, operator == "~"))
    if operator in ("=", "!="):
        return Condition(text, name, _among(text, kind, value.split(","), operator == "="))
    if kind not in NUMBERS:
        raise ValueError(f"{text!r}: {name} is no number; it takes = != ~ !~")
    return Condition(text, name, _compare(operator, _number(value, text)))


def all_hold(conditions: Sequence[Condition], values: Mapping[str, Any]) -> bool:
    """Whether a record fulfils all conditions.

    Args:
        values: what it has for each name that they ask about.
    """
    return all(condition.holds(values[condition.name]) for condition in conditions)


def _kind(name: str, fields: Mapping[str, Any], text: str) -> Any:
    if name in OF_SHAPE and "shape" not in fields:
        raise ValueError(f"{text!r}: these records do not say their shape")
    if name in OF_PLACE:
        return "STRING" if name in ("shape", "source") else "INT64"
    kind = fields.get(name)
    if kind == ["STRING"] or (isinstance(kind, str) and kind != "BYTES"):
        return kind
    names = [*OF_PLACE, *(n for n, k in fields.items() if k == ["STRING"] or isinstance(k, str))]
    known = sorted({n for n in names if fields.get(n) != "BYTES"})
    raise ValueError(f"{text!r}: no name {name!r} to ask about; there are {known}")


def _texts(value: Any) -> Sequence[str]:
    return value if isinstance(value, list | tuple) else (value,)


def _pattern(text: str, kind: Any, value: str, wanted: bool) -> Callable[[Any], bool]:
    if kind in NUMBERS:
        raise ValueError(f"{text!r}: a regular expression is for text")
    try:
        search = re.compile(value).search
    except re.error as error:
        raise ValueError(f"{text!r}: {value!r} is no regular expression: {error}") from error
    return lambda found: any(search(part) for part in _texts(found)) == wanted


def _among(text: str, kind: Any, values: Sequence[str], wanted: bool) -> Callable[[Any], bool]:
    if kind in NUMBERS:
        numbers = {_number(value, text) for value in values}
        return lambda found: (found in numbers) == wanted
    patterns = [re.compile(fnmatch.translate(value.strip())) for value in values]
    return lambda found: any(p.match(part) for p in patterns for part in _texts(found)) == wanted


def _compare(operator: str, limit: float) -> Callable[[Any], bool]:
    return {
        "<": lambda found: found < limit,
        "<=": lambda found: found <= limit,
        ">": lambda found: found > limit,
        ">=": lambda found: found >= limit,
    }[operator]


def _number(value: str, text: str) -> float:
    """A number; whole ones stay whole, as large labels would be rounded."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    raise ValueError(f"{text!r}: {value!r} is no number")
