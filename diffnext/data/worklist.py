# SPDX-License-Identifier: Apache-2.0
"""A plan that several processes carry out, as files inside the cache; each reads what it works on.

    diffnext.work/s-ID/   head.json, members/, units/   see shared_work.py
                          tasks.bin        the tasks, unit by unit
                          failures.jsonl   what the plan itself left out
                          parts/NAME/      the records of one process, with their journal
                          join.json        what becomes of the parts; see parts.py

Each sample of the plan has a number, its ticket, that goes with its record.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import pickle
import secrets
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from diffnext.data.latents import Latents
from diffnext.data.leases import LEASE_S
from diffnext.data.ledger import write_ledger
from diffnext.data.prompt_cache import WORDS, Find
from diffnext.data.prompt_store import PromptStore
from diffnext.data.shared_work import (
    GONE,
    HEAD,
    SharedWork,
    folders,
    in_units,
    remove,
    write_head,
)

if TYPE_CHECKING:
    from diffnext.data.cache_plan import Plan, Task

WORK = "diffnext.work"
BEGUN = "s-"  # how the folders of works begin
TASKS, JOIN = "tasks.bin", "join.json"
UNIT_BYTES = 1 << 27  # of the frames of the smallest units; a medium of more is a unit alone
UNITS = 128  # that even a small plan is divided into, so that many processes have their share

# What may come out of tasks.bin: a pickle could call anything else that can be imported.
KNOWN = {
    "diffnext.data.cache_plan": ("Task",),
    "diffnext.data.latents": ("Latents",),
    "diffnext.data.location": ("Cell", "File", "TarMember", "Url"),
    "diffnext.data.shelf": ("Kept",),
    "diffnext.data.sources.listing": ("Source",),
    "diffnext.data.views": ("View",),
}


@dataclass(frozen=True)
class Unit:
    """Tasks that are handed out together."""

    offset: int  # in tasks.bin
    ticket: int  # of the first sample
    samples: int
    num_bytes: int  # of their frames


class Worklist(SharedWork):
    """A plan in files. `create` makes one, `find` finds the one of a cache.

    Args:
        folder: diffnext.work/s-ID in the cache.

    Raises:
        FileNotFoundError: the work is done, or was not begun.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        head = self.head
        self.fields: dict[str, Any] = head["fields"]
        self.asked: dict[str, Any] = head["asked"]
        self.leader: str = head["leader"]
        self.smallest: int = head["smallest"]  # bytes of the frames of the smallest sample
        self.units = [Unit(*values) for values in head["units"]]
        self._tickets = [unit.ticket for unit in self.units]
        with open(os.path.join(folder, TASKS), "rb") as stream:
            self.latents: Latents = _Tasks(stream).load()

    @property
    def samples(self) -> int:
        """How many there are; tickets are below it."""
        return sum(unit.samples for unit in self.units)

    @functools.cached_property
    def prompts(self) -> Find | None:
        """Embeddings of the captions, which were made before; None: captions are stored as texts."""
        if WORDS not in self.fields:
            return None
        return PromptStore(os.path.dirname(os.path.dirname(self.folder)))

    @property
    def parts(self) -> str:
        """The folder of the parts."""
        return os.path.join(self.folder, "parts")

    @property
    def join_file(self) -> str:
        return os.path.join(self.folder, JOIN)

    def tasks(self, unit: int) -> list[Task]:
        """The tasks of a unit."""
        with open(os.path.join(self.folder, TASKS), "rb") as stream:
            stream.seek(self.units[unit].offset)
            return _Tasks(stream).load()

    def unit_of(self, ticket: int) -> int:
        """The unit that a sample belongs to."""
        return bisect_right(self._tickets, ticket) - 1

    def discard(self) -> None:
        """Remove the work, at one moment for all that see it."""
        remove(self.folder)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(self.folder))


def create(
    plan: Plan,
    asked: Mapping[str, Any],
    *,
    leader: str,
    lease_s: float = LEASE_S,
) -> Worklist:
    """Write down the tasks of a plan for all who take part; the caller holds the cache's lock.

    Args:
        leader: the holder of the lock.
        asked: what the build was asked for; who takes part must have been asked for the same.
    """
    clear(plan.output)
    folder = os.path.join(plan.output, WORK, BEGUN + secrets.token_hex(6))
    os.makedirs(os.path.join(folder, "parts"))
    write_ledger(folder, [*plan.failures, *plan.dropped])
    with open(os.path.join(folder, TASKS), "wb") as stream:
        pickle.dump(plan.latents, stream, protocol=5)
        units, ticket = [], 0
        for group in _groups(plan):
            units.append(_write_unit(stream, ticket, group))
            ticket += units[-1].samples
        stream.flush()
        os.fsync(stream.fileno())
    smallest = min(view.num_bytes for view in plan.views())
    known = {"asked": dict(asked), "leader": leader, "fields": plan.fields, "smallest": smallest}
    write_head(folder, [astuple(unit) for unit in units], lease_s, **known)
    return Worklist(folder)


def find(output: str) -> Worklist | None:
    """The work that is being done at a cache, or was left undone by processes that died."""
    for folder in folders(os.path.join(output, WORK), BEGUN):
        with contextlib.suppress(FileNotFoundError):
            return Worklist(folder)
    return None


def is_joining(output: str) -> bool:
    """Whether parts were being joined when a process was killed."""
    return any(
        os.path.exists(os.path.join(folder, JOIN))
        for folder in folders(os.path.join(output, WORK), BEGUN)
    )


def clear(output: str) -> None:
    """Remove what is left of works that were not begun, or are over; the caller holds the lock."""
    work = os.path.join(output, WORK)
    for name in os.listdir(work) if os.path.isdir(work) else ():
        if name.startswith(GONE) or not os.path.exists(os.path.join(work, name, HEAD)):
            shutil.rmtree(os.path.join(work, name), ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(work)


def _groups(plan: Plan) -> Iterator[list[Task]]:
    """The tasks of each unit; their frames decide how much work they are."""
    total = sum(task.num_bytes for task in plan.tasks)
    return in_units(plan.tasks, lambda task: task.num_bytes, min(UNIT_BYTES, total // UNITS))


def _write_unit(stream: io.BufferedWriter, first: int, tasks: list[Task]) -> Unit:
    """Add a unit to the file, its samples numbered from `first` on."""
    offset, tickets, numbered = stream.tell(), count(first), []
    for task in tasks:
        numbered.append(replace(task, tickets=tuple(islice(tickets, len(task.views)))))
    pickle.dump(numbered, stream, protocol=5)
    return Unit(offset, first, next(tickets) - first, sum(task.num_bytes for task in tasks))


class _Tasks(pickle.Unpickler):
    """Reads tasks, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in KNOWN.get(module, ()):
            raise pickle.UnpicklingError(
                f"{TASKS} holds {module}.{name}, which is no part of a task"
            )
        return getattr(importlib.import_module(module), name)
