# SPDX-License-Identifier: Apache-2.0
"""A build by several processes: one plans and joins, all encode. They meet in the folder of the cache.

The one that holds the lock of the cache leads: it plans, writes the plan down, works like the others,
waits for them and joins what they wrote. When it dies, another one leads, with what it finds. So does
the next build, be it by one process or by many.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from diffnext.data import worklist
from diffnext.data.cache import Report
from diffnext.data.cache_folder import open_journal
from diffnext.data.cache_part import POLL_S, Tools, take_part
from diffnext.data.cache_plan import Plan
from diffnext.data.leases import LEASE_S
from diffnext.data.ledger import load_failures
from diffnext.data.parts import Tell, join
from diffnext.data.progress import Meter
from diffnext.data.records import open_writer
from diffnext.data.records.layout import unfinished_ok
from diffnext.data.records.lock import FolderLock, InUse
from diffnext.data.worklist import Worklist
from diffnext.utils.files import remove_drafts

TELL_AFTER_S = 5.0  # of waiting for others


def lead_or_follow(
    output: str,
    tools: Tools,
    asked: Mapping[str, Any],
    lead: Callable[[FolderLock], int],
    *,
    help_out: Callable[[], None] = lambda: None,
    tell: Tell = print,
) -> int:
    """Lead the build of a cache, or take part in it until it is done; lead it when its leader dies.

    Args:
        asked: what the build is asked for; see `worklist.create`.
        lead: plans and builds with this lock; what it returns is returned.
        help_out: does what others can do for a leader before it has written its plan down; returns
            when there is nothing more to do.

    Raises:
        ValueError: the build at work was asked for something else, or locks do not work here.
    """
    work, leader = None, ""
    while work is None or work.is_there:
        try:
            lock = lock_of(output)
        except InUse as error:
            if work is None and leader != error.holder:
                leader = error.holder
                tell(f"{leader} plans the build of {output}, this one takes part")
        else:
            with lock:
                return lead(lock)
        if work is None:
            work = _find(output, leader)
            if work is not None:
                _check_asked(work, asked)
                _help(work, tools, tell)
            else:
                help_out()
        time.sleep(POLL_S)
    return 0


def _find(output: str, leader: str) -> Worklist | None:
    """The work of this leader; what others left undone is joined by the leader before it plans."""
    work = worklist.find(output)
    return work if work is not None and work.leader == leader else None


def _help(work: Worklist, tools: Tools, tell: Tell) -> None:
    """Take part in the work of another."""
    try:
        tell(f"this process encoded {take_part(work, tools)} samples")
    except OSError:
        if work.is_there:
            raise
        tell(
            f"this process was silent for more than {work.members.lease_s:g} s; others have done its "
            "work"
        )


def _check_asked(work: Worklist, asked: Mapping[str, Any]) -> None:
    """Refuse to take part in a build that was asked for something else."""
    ours, theirs = json.loads(json.dumps(dict(asked))), work.asked
    lines = [
        f"  {key}: it has {theirs.get(key)!r}, this process {ours.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]
    if lines:
        raise ValueError(
            "the build at work was started in another way; give the same options, or wait for its "
            "end:\n" + "\n".join(lines)
        )


def lock_of(folder: str) -> FolderLock:
    """The lock of a cache that several processes build, which cannot do without.

    Raises:
        InUse: another one leads.
        ValueError: the file system has no locks.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return FolderLock(folder)
        except UserWarning as warning:
            raise ValueError(f"several processes cannot build here: {warning}") from None


def build_shared(
    plan: Plan,
    tools: Tools,
    *,
    lock: FolderLock,
    asked: Mapping[str, Any],
    show: Callable[[Meter], None] = lambda meter: None,
    tell: Tell = print,
    lease_s: float = LEASE_S,
) -> Report:
    """Lead a build that others may take part in. The plan's journal is that of the cache then.

    Args:
        lock: on the output, held by the caller since before the plan.
        asked: see `worklist.create`.
        show: called with where the whole build is, that of all processes.
        lease_s: silence in seconds after which others take over the work of a process.

    Raises:
        ValueError: samples got lost.
        OSError: the disk is full or failed.
    """
    before = len(plan.journal.entries)
    plan.begin()
    if not plan.finished:
        with unfinished_ok():
            open_writer(plan.output, plan.fields, append=True, lock=lock).close()
    work = worklist.create(plan, asked, leader=lock.holder, lease_s=lease_s)
    take_part(work, tools, show=show)
    wait_for_others(work, tell)
    join(plan.output, work, tell)
    plan.journal = open_journal(plan.output)[0]
    failures = [f for f in load_failures(plan.output) if f.stage != "dropped"]
    report = Report(len(plan.journal.entries) - before, failures)
    lost = work.samples + len(plan.failures) - report.written - len(failures)
    if lost:
        raise ValueError(
            f"{lost} samples of {plan.output} were done but are not there: a machine or its disk "
            "failed; the same command encodes them"
        )
    return report


def settle(output: str, tell: Tell = print) -> None:
    """Join what an earlier build left, before anything else is done to a cache; the caller has its lock."""
    remove_drafts(output)
    work = worklist.find(output)
    if work is not None:
        wait_for_others(work, tell)
        tell(f"{output}: an earlier build left records, which are joined to the cache now")
        join(output, work, tell)
    worklist.clear(output)


def wait_for_others(work: Worklist, tell: Tell) -> None:
    """Wait until nobody is at work any more, or has given no sign of life for the time of a lease."""
    since, told = time.monotonic(), False
    while others := work.members.living():
        if not told and time.monotonic() - since > TELL_AFTER_S:
            tell(f"waiting for {', '.join(others)}, or {work.members.lease_s:g} s of silence")
            told = True
        time.sleep(POLL_S)
