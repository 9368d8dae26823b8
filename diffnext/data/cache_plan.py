# SPDX-License-Identifier: Apache-2.0
"""What a build of a cache will do, before it does it: which samples, what shapes, how many bytes."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby, repeat
from typing import Any

from diffnext.data.cache_compare import Held, half
from diffnext.data.cache_folder import open_journal
from diffnext.data.cache_identity import MadeBy, check_identity, make_identity
from diffnext.data.choices import Choices
from diffnext.data.journal import Entry, Journal, sample_key
from diffnext.data.latents import Latents
from diffnext.data.ledger import attempt, read_ledger
from diffnext.data.progress import Progress, silent
from diffnext.data.prompt_cache import Find, expected_bytes
from diffnext.data.prune import prune
from diffnext.data.record_fields import complete, field_names, record_types
from diffnext.data.records import holds_records, read_identity, write_identity
from diffnext.data.scouting import Look, Scout, look_ahead
from diffnext.data.sources import Failure, Listing, Source
from diffnext.data.view_rules import ViewRules, examine
from diffnext.data.views import View, is_enlarged
from diffnext.data.workers import Pool

TASK_BYTES = 1 << 28  # of the frames that one task decodes; a single view may have more


@dataclass(frozen=True, slots=True)
class Item:
    """A sample that is to be encoded: one view of one medium, with its captions."""

    source: Source
    view: View
    stamp: tuple[int, int]  # of its task, as the number is
    ticket: int = -1

    def entry(self, content: str) -> Entry:
        """The line of the journal, now that the sha256 of the medium is known."""
        key = sample_key(content, self.source.fields(), self.view)
        return Entry(key, self.source.path, *self.stamp, content, self.view, self.ticket)

    @property
    def attempt(self) -> str:
        return attempt(self.source.path, self.stamp, self.view)

    def failure(self, stage: str, reason: str) -> Failure:
        """What the ledger says if the sample cannot be made."""
        return Failure(self.source.path, stage, reason, self.attempt)


@dataclass(frozen=True, slots=True)
class Task:
    """A medium that is decoded once for all of its views.

    What its probe found is not kept: the frame times of many videos would fill the memory.

    Args:
        views: one object for all tasks that have the same.
        stamp: size in bytes and time of change of the medium when it was planned.
        content: sha256 of its bytes; "" where the plan did not need it, and the build finds it out.
        tickets: numbers of its samples, where several processes share the plan; see worklist.py.
    """

    source: Source
    views: tuple[View, ...]
    stamp: tuple[int, int]
    content: str = ""
    tickets: tuple[int, ...] = ()

    @property
    def items(self) -> tuple[Item, ...]:
        """Its samples, made anew: there may be millions of them."""
        pairs = zip(self.views, self.tickets or repeat(-1), strict=False)
        return tuple(Item(self.source, view, self.stamp, ticket) for view, ticket in pairs)

    @property
    def num_bytes(self) -> int:
        """Size of the frames that are decoded for it."""
        return sum(view.num_bytes for view in self.views)


@dataclass
class Plan:
    """All that a build needs to know."""

    output: str
    rules: ViewRules
    latents: Latents
    identity: dict[str, Any]
    fields: dict[str, Any]  # of a record: name -> type
    journal: Journal
    finished: bool  # the folder was closed by its writer, or is not there yet
    tasks: list[Task] = field(default_factory=list)
    present: int = 0  # samples that are in the cache already
    enlarged: int = 0  # samples to encode that have more pixels than their medium
    unused: int = 0  # frames of videos to encode that are in no view
    stale: dict[int, str] = field(default_factory=dict)  # record -> why it fits no source any more
    dropped: list[Failure] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    failed_before: int = 0  # of the failures: as the ledger has them, not tried again
    sources: list[Source] = field(default_factory=list)  # listed media with the fields of records
    others: tuple[int, str] = (0, "")  # files that are no media: their number, and of which kinds
    prompts: Find | None = None  # embeddings of their texts, where captions are embedded

    @property
    def items(self) -> list[Item]:
        """The samples to encode."""
        return [item for task in self.tasks for item in task.items]

    def views(self) -> Iterator[View]:
        """Those of the samples to encode."""
        return (view for task in self.tasks for view in task.views)

    @property
    def samples(self) -> int:
        """How many there are to encode."""
        return sum(len(task.views) for task in self.tasks)

    @property
    def total(self) -> int:
        """All samples, whatever becomes of them."""
        return self.present + self.samples + len(self.failures) + len(self.dropped)

    @property
    def is_due(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.tasks) or not self.finished or self.journal.moved > 0

    @property
    def num_bytes(self) -> int:
        """Size of what is to be written: float16 moments, and about 700 bytes for the rest.

        These are the captions, and a line each in the journal, the views and the indexes.

        Embeddings of prompts count twice, as they are kept aside until the build is done.
        """
        total, encoder = 0, self.identity.get("text_encoder")
        for view, count in Counter(self.views()).items():
            total += count * (2 * math.prod(self.latents.shape(view)) + 700)
        if encoder is not None:
            for task in self.tasks:
                total += 2 * len(task.views) * expected_bytes(task.source.fields(), encoder)
        return total

    @property
    def free_bytes(self) -> int:
        """Space on the disk of the output."""
        folder = os.path.abspath(self.output)
        while not os.path.exists(folder):
            folder = os.path.dirname(folder)
        return shutil.disk_usage(folder).free

    def begin(self) -> None:
        """Bring the files beside the records up to date, before anything is added to them.

        The journal goes first: as long as a cache of version 1 has its identity, that says the view
        of the lines which have none.
        """
        os.makedirs(self.output, exist_ok=True)
        self.journal.rewrite()
        write_identity(self.output, self.identity)

    def drop_stale(self) -> None:
        """Drop the records that fit no source any more, after the build; see `prune`."""
        if self.stale:
            prune(self.output, self.stale, self.journal.entries)
            self.journal, self.stale = open_journal(self.output)[0], {}


def make_plan(
    listing: Listing,
    output: str,
    *,
    rules: ViewRules,
    latents: Latents,
    made_by: MadeBy,
    workers: int = 4,
    limit_s: float = 120.0,
    retry_failed: bool = False,
    remember: bool = False,
    progress: Progress = silent,
) -> Plan:
    """Compare the listed media with what the cache holds.

    Media whose size and time of change are those of the last build are not read. Of others the head
    is probed, and those are hashed whose size is that of one that was encoded: they may be the same,
    moved or touched.

    Args:
        made_by: what the identity states. Where it embeds captions, the caller fills `Plan.prompts`
            before the build.
        workers: threads that look at media, and processes that probe videos, some of which hang or
            crash their decoder; 0 probes here.
        limit_s: seconds that the probe of a video may take.
        retry_failed: try again what failed before and has not changed since.
        remember: write to the output which views each medium gives; the caller holds its lock.
        progress: wraps an iterable of known length, to show how far it is.

    Raises:
        ValueError: sizes the autoencoder cannot take, or a cache of another identity.
    """
    latents.check(rules)
    stated = read_identity(output) if holds_records(output) else None
    names = field_names(listing, made_by.computed, (stated or {}).get("fields", ()))
    identity = make_identity(made_by, latents, names)
    identity = check_identity(output, identity, made_by.vae_defaults)
    journal, finished = open_journal(output, progress)
    types = record_types(names, embedded=made_by.text_encoder is not None)
    plan = Plan(output, rules, latents, identity, types, journal, finished)
    plan.failures.extend(listing.failures)
    plan.others = listing.others.total(), listing.others_in_words()
    plan.sources = complete(listing.sources, names, made_by.computed, plan.failures)
    held, choices = Held(journal), Choices(output, rules, store=remember)
    ledger = {} if retry_failed else read_ledger(output)
    with Pool(examine, workers=workers, limit_s=limit_s) as pool, contextlib.closing(choices):
        scout = Scout(held, choices, rules, ledger, pool)
        looks = look_ahead(scout, plan.sources, max(1, workers))
        _compare(plan, held, progress(looks, len(plan.sources), "compare"), ledger)
    return plan


def _compare(
    plan: Plan, held: Held, looks: Iterable[Look | Failure], ledger: Mapping[str, Failure]
) -> None:
    """Hold each medium, as it looks now, against the cache; then the cache against them."""
    contents = bytearray()
    for source, look in zip(plan.sources, looks, strict=True):
        contents += half("" if isinstance(look, Failure) else look.content)
        _place(plan, source, look, held, ledger)
    plan.stale = held.stale(plan.sources, contents, plan.failures)


def _place(
    plan: Plan, source: Source, look: Look | Failure, held: Held, ledger: Mapping[str, Failure]
) -> None:
    """Sort the views of a medium into those in the cache, to encode, dropped, and failed."""
    if isinstance(look, Failure):
        plan.failures.append(look)
        plan.failed_before += look.attempt in ledger
        return
    chosen, path = look.chosen, source.path
    plan.dropped += [Failure(path, "dropped", reason) for reason in chosen.dropped]
    plan.failures += [Failure(path, "probe", reason) for reason in chosen.failed]
    views = []
    for view in chosen.views:
        item = Item(source, view, look.stamp)
        if look.content and held.take(item.entry(look.content)):
            plan.present += 1
        elif ledger and (before := ledger.get(item.attempt)):
            plan.failures.append(before)
            plan.failed_before += 1
        else:
            views.append(view)
            plan.enlarged += is_enlarged(chosen.height, chosen.width, view)
    plan.unused += chosen.unused if views else 0
    groups = _groups(tuple(views), TASK_BYTES)
    plan.tasks += [Task(source, group, look.stamp, look.content) for group in groups]


@lru_cache(maxsize=4096)  # most media have the views of many others
def _groups(views: tuple[View, ...], most_bytes: int) -> list[tuple[View, ...]]:
    """The views of one medium in as few groups as memory allows; those of the same frames together."""
    groups: list[list[View]] = []
    size = 0
    for _, same in groupby(sorted(views, key=_frames), key=_frames):
        batch = list(same)
        more = sum(view.num_bytes for view in batch)
        if not groups or size + more > most_bytes:
            groups.append([])
            size = 0
        groups[-1] += batch
        size += more
    return list(map(tuple, groups))


def _frames(view: View) -> tuple[int, ...]:
    return view.frame_ids
