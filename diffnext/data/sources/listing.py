# SPDX-License-Identifier: Apache-2.0
"""What is found: media with what is known about them, and those that cannot be used with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffnext.data.fields import FIELDS, parse_fields
from diffnext.data.location import Location

MOST_KINDS = 8  # that are named in messages


@dataclass(frozen=True, slots=True)
class Source:
    """A picture or a video and what is known about it."""

    location: Location
    caption: str | None = None  # long
    text: str | None = None  # short
    label: int | None = None
    flow: float | None = None  # motion score of a video
    captions: tuple[str, ...] | None = None  # several long ones, of which `caption` is the first

    @property
    def path(self) -> str:
        """The location in words: the path of a plain file."""
        return str(self.location)

    def fields(self) -> dict[str, Any]:
        """The fields that are known, by name."""
        known = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Failure:
    """A medium that does not come into the cache because of an error."""

    file: str
    stage: str  # "scan", "probe", "fetch", "decode", "encode", "join", or "dropped" by the rules
    reason: str
    attempt: str = ""  # names what was tried, where the same is not to be tried again


@dataclass
class Listing:
    """What an input holds.

    Args:
        tick: told of each file that is seen, and each medium that is dealt with, by those words.
    """

    sources: list[Source] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    tick: Callable[[str], None] = lambda what: None
    # Files of a folder that are neither media nor say anything of media, by the end of their names
    others: Counter[str] = field(default_factory=Counter)

    def add(self, location: Location, values: Mapping[str, Any], *, where: str) -> None:
        """Add a medium, or the reason why its fields cannot be used."""
        self.tick("media")
        try:
            self.sources.append(Source(location, **parse_fields(values)))
        except ValueError as error:
            self.fail(str(location), f"{where}: {error}")

    def others_in_words(self) -> str:
        """The files of other kinds, the most frequent first: "files of other kinds: 7 .heic, 1 .db"."""
        kinds = [f"{n} {end or 'without an end'}" for end, n in self.others.most_common(MOST_KINDS)]
        return f"files of other kinds: {', '.join(kinds)}" if kinds else ""

    def fail(self, file: str, reason: str) -> None:
        """Note what cannot be used, and why."""
        self.failures.append(Failure(file, "scan", reason))
