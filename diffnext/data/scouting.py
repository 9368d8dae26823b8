# SPDX-License-Identifier: Apache-2.0
"""Looks at listed media before a build: are they as they were, which views do they give, what are they.

What can be known without reading a medium is not read from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from diffnext.data.cache_compare import Held
from diffnext.data.choices import Choices
from diffnext.data.fetching import FETCH, is_of_network
from diffnext.data.ledger import attempt
from diffnext.data.sources import Failure, Source
from diffnext.data.threads import map_ahead
from diffnext.data.view_rules import Chosen, ViewRules, examine
from diffnext.data.worker import WorkError
from diffnext.data.workers import Pool

CHUNK = 32  # sources that a thread looks at in one go


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a listed medium when it is held against the cache."""

    stamp: tuple[int, int]
    content: str  # "" where it cannot be in the cache
    chosen: Chosen


class Scout:
    """Looks at one medium after another; errors are results. For use by several threads."""

    def __init__(
        self,
        held: Held,
        choices: Choices,
        rules: ViewRules,
        ledger: Mapping[str, Failure],
        pool: Pool,
    ) -> None:
        self._held, self._choices = held, choices
        self._rules, self._ledger, self._pool = rules, ledger, pool

    def __call__(self, source: Source) -> Look | Failure:
        path = source.path
        try:
            stamp = source.location.stamp()
        except Exception as error:  # media are of any kind: whatever is raised is a finding
            return _failure(source, "scan", error)
        tried = attempt(path, stamp) if self._ledger else ""
        if tried in self._ledger:
            return self._ledger[tried]
        try:
            chosen = self._choices.get(path, stamp) or self._choose(source, stamp)
            return Look(stamp, self._content(source, stamp), chosen)
        except Exception as error:
            return _failure(source, "probe", error, attempt(path, stamp))

    def _choose(self, source: Source, stamp: tuple[int, int]) -> Chosen:
        source.location.fetch(stamp)
        order = (source.location, self._rules)
        is_picture = source.location.kind == "image"
        chosen = examine(order) if is_picture else self._pool.submit(order).result()
        self._choices.add(source.path, stamp, chosen)
        return chosen

    def _content(self, source: Source, stamp: tuple[int, int]) -> str:
        """Of a medium without views too: its records of other views are not stale by that."""
        known = self._held.content(source.path, stamp)
        own_size = source.location.has_own_size
        if known or not self._held.may_hold(stamp, own_size=own_size):
            return known
        source.location.fetch(stamp)
        return source.location.digest()


def look_ahead(scout: Scout, sources: Sequence[Source], workers: int) -> Iterator[Look | Failure]:
    """What the scout finds of each source, in order; a thread takes several at once."""
    starts = range(0, len(sources), CHUNK)
    chunks = map_ahead(
        lambda start: [scout(source) for source in sources[start : start + CHUNK]],
        starts,
        workers=workers,
        ahead=4 * workers,
    )
    for looks in chunks:
        if isinstance(looks, Exception):
            raise looks
        yield from looks


def _failure(source: Source, stage: str, error: Exception, attempt: str = "") -> Failure:
    reason = str(error) if isinstance(error, WorkError) else f"{type(error).__name__}: {error}"
    if is_of_network(error, source.location):
        return Failure(source.path, FETCH, reason)
    return Failure(source.path, stage, reason, attempt)
