# SPDX-License-Identifier: Apache-2.0
"""Which column of a table, or key of an object, holds which field: the names that data sets use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffnext.data.fields import FIELDS, is_empty

# The first that a row has and that is not empty counts.
# fmt: off
NAMES = {
    "path": (
        "path", "file", "file_name", "filename", "file_path", "filepath", "image", "video",
        "image_path", "video_path", "img", "media", "url", "image_url", "video_url",
    ),
    "caption": ("caption", "prompt", "cap", "long_caption", "description", "txt"),
    "captions": ("captions", "sentences"),
    "text": ("text", "short_caption"),
    "label": ("label", "class", "class_id", "cls"),
    "flow": ("flow",),
}
# fmt: on


@dataclass(frozen=True)
class Columns:
    """Finds fields in rows.

    Args:
        chosen: field -> column, where the user names one; the usual names then count no more.

    Raises:
        ValueError: a field that there is not.
    """

    chosen: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.chosen) - set(NAMES)):
            raise ValueError(f"--columns: no field {unknown[0]!r}; there are {', '.join(NAMES)}")

    def names(self, name: str) -> tuple[str, ...]:
        """The columns that may hold a field, the first one first."""
        return (self.chosen[name],) if name in self.chosen else NAMES[name]

    def wanted(self, present: Iterable[str]) -> list[str]:
        """Those of the present columns that may hold any field."""
        known = {column for name in NAMES for column in self.names(name)}
        return [column for column in present if column in known]

    def fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a row that are not empty, not checked yet."""
        found = ((name, self.find(name, row)) for name in FIELDS)
        return {name: row[column] for name, column in found if column is not None}

    def find(self, name: str, row: Mapping[str, Any]) -> str | None:
        """The column in which a row has a field; None if it has not."""
        for column in self.names(name):
            if column in row and not is_empty(row[column]):
                return column
        return None


def parse_columns(text: str) -> dict[str, str]:
    """Parse `caption=prompt,path=image`: field = column.

    Raises:
        ValueError: a part without an equals sign.
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for name, mark, column in pairs:
        if not (mark and name.strip() and column.strip()):
            raise ValueError(f"{text!r}: field=column is wanted, such as caption=prompt,path=image")
    return {name.strip(): column.strip() for name, _, column in pairs}
