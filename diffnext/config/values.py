# SPDX-License-Identifier: Apache-2.0
"""What values an option can hold, and what a word on the command line or a path means."""

from __future__ import annotations

import ast
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffnext.config import yaml_text
from diffnext.config.yaml_text import ConfigError


@dataclass(frozen=True)
class OneOf:
    """A default whose option also takes values of other types."""

    default: Any
    types: tuple[type, ...]


COMMAND_LINE = "the command line"  # as a source of values, where others are paths of files
_SCALARS = (bool, int, float, str)  # bool first: it is an int to isinstance


def where(source: str) -> str:
    """Return " in SOURCE" for a message, or nothing where the source is not known."""
    if source == COMMAND_LINE:
        return f" on {source}"
    return f" in {source}" if source else ""


def convert(value: Any, wanted: type) -> Any:
    """Return `value` as the wanted type where that is exact or plainly meant.

    Raises:
        TypeError, ValueError, OverflowError: it is not.
    """
    if wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return _number(value)
    if wanted is int and isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)  # 1e4; floats beyond 2**53 do not say which integer is meant
    if wanted is str and value is None:
        return ""
    if wanted in (list, tuple) and isinstance(value, (list, tuple)):
        return wanted(value)
    if isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return value
    raise TypeError


def _number(value: float | str) -> float:
    """Return a float; "not a number" is none."""
    number = float(value)
    if math.isnan(number):
        raise ValueError
    return number


def plain(value: Any, name: str, source: str) -> Any:
    """Return a copy made of None, bool, int, float, str, list, tuple and dict alone."""
    if value is None:
        return None
    for kind in _SCALARS:
        if isinstance(value, kind):
            return kind(value)
    for kind in (list, tuple):
        if isinstance(value, kind):
            return kind(plain(item, name, source) for item in value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(item, name, source) for key, item in value.items()}
    raise ConfigError(
        f"{name} = {value!r} ({type(value).__name__}){where(source)}: an option holds None, bool, "
        "int, float, str, list, tuple, or dict with text as keys"
    )


def read_section(path: str, source: str) -> dict[str, Any]:
    """Read a free section from a file: names that start with "_" (`_class_name`) are no options.

    The path is relative to the file that names it.
    """
    path = os.path.join(os.path.dirname(source), os.path.expanduser(path))
    try:
        tree = yaml_text.load_file(path)
    except OSError as error:
        raise ConfigError(f"{path}{where(source)} cannot be read: {error.strerror}") from error
    return {key: value for key, value in tree.items() if not key.startswith("_")}


def parse_word(word: Any) -> Any:
    """Return what a word of the command line means: a Python literal, else YAML, else the text."""
    if not isinstance(word, str) or word == "":
        return word
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        pass
    try:
        return yaml_text.load(word)
    except ConfigError:
        return word
