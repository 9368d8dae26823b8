# SPDX-License-Identifier: Apache-2.0
"""Media to moments to records: decoded ahead in threads, encoded in batches; errors are noted."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from diffnext.data import media
from diffnext.data.cache_identity import open_journal
from diffnext.data.cache_plan import Item, Plan
from diffnext.data.encoding import Encode, Outcome, PatientEncoder, flaw
from diffnext.data.journal import write_ledger
from diffnext.data.records import RecordWriter, open_writer, write_identity
from diffnext.data.records.lock import FolderLock
from diffnext.data.sources import Failure
from diffnext.data.threads import map_ahead


@dataclass
class Report:
    """What a build did."""

    written: int = 0
    failures: list[Failure] = field(default_factory=list)


def build(
    plan: Plan,
    encode: Encode,
    *,
    batch_size: int = 8,
    workers: int = 4,
    lock: FolderLock | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Report:
    """Encode what is planned and add it to the cache.

    A medium that cannot be decoded or encoded is reported and left out. A build that is interrupted
    leaves what was written; the same plan made again goes on from there.

    Args:
        encode: frames (B, T, H, W, 3) uint8 to moments (B, ...) float16.
        batch_size: samples that are encoded together.
        workers: threads that decode ahead of the encoder.
        lock: on the output, held by the caller since before the plan; without one, the build takes
            its own, and refuses a plan that another build has made out of date.
        advance: called with the number of samples that were dealt with.

    Raises:
        ValueError: the output is in use or has changed, or the autoencoder fails on everything.
    """
    report = Report(failures=list(plan.failures))
    with _held(plan, lock) as held:
        if plan.items or not plan.finished:
            write_identity(plan.output, plan.identity)
            plan.journal.rewrite()
            encoder = PatientEncoder(encode)
            with _writer(plan, held) as writer:
                for batch in _decoded_batches(plan, batch_size, workers):
                    report.written += _store(batch, encoder, plan, writer, report.failures)
                    advance(len(batch))
        write_ledger(plan.output, [*report.failures, *plan.dropped])
    return report


@contextlib.contextmanager
def _held(plan: Plan, lock: FolderLock | None) -> Iterator[FolderLock]:
    if lock is not None:
        yield lock
        return
    with FolderLock(plan.output) as own:
        if open_journal(plan.output)[0].entries != plan.journal.entries:
            raise ValueError(
                f"{plan.output} was changed by another build after this one was planned; plan again"
            )
        yield own


def _writer(plan: Plan, lock: FolderLock) -> RecordWriter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an unfinished folder: to go on with it is the purpose
        return open_writer(plan.output, plan.fields, append=True, lock=lock)


def _store(
    batch: Sequence[tuple[Item, Outcome]],
    encoder: PatientEncoder,
    plan: Plan,
    writer: RecordWriter,
    failures: list[Failure],
) -> int:
    """Encode and write one batch; returns how many records it gave."""
    good = []
    for item, outcome in batch:
        if isinstance(outcome, Exception):
            failures.append(_failure(item, "decode", outcome))
        else:
            good.append((item, outcome))
    encoded = []
    outcomes = encoder([frames for _, frames in good])
    for (item, _), outcome in zip(good, outcomes, strict=True):
        problem = outcome if isinstance(outcome, Exception) else flaw(outcome)
        if problem is not None:
            failures.append(_failure(item, "encode", problem))
            continue
        _check_shape(item, outcome, plan)
        encoded.append((item, outcome))
    plan.journal.append([item.entry for item, _ in encoded])  # before the records: see journal.py
    for item, moments in encoded:
        writer.write(_record(item, moments, plan))
    return len(encoded)


def _check_shape(item: Item, moments: np.ndarray, plan: Plan) -> None:
    """Stop where the autoencoder is not the one that was planned with: no sample would fit."""
    shape = plan.latents.shape(plan.cut)
    if moments.shape != shape:
        raise ValueError(
            f"{item.source.path}: the autoencoder gave moments {moments.shape}, {shape} were planned"
        )


def _record(item: Item, moments: np.ndarray, plan: Plan) -> dict[str, Any]:
    fields = item.source.fields()
    return {
        "shape": list(moments.shape),
        "moments": np.ascontiguousarray(moments, dtype="<f2").tobytes(),
        **{name: fields[name] for name in plan.fields if name in fields},
    }


def _decoded_batches(
    plan: Plan, batch_size: int, workers: int
) -> Iterator[list[tuple[Item, Outcome]]]:
    """Batches of decoded media in the order of the plan."""
    decoded = map_ahead(
        lambda item: media.read(item.medium, plan.cut),
        plan.items,
        workers=workers,
        ahead=batch_size + workers,
    )
    pairs = zip(plan.items, decoded, strict=True)
    while batch := list(islice(pairs, batch_size)):
        yield batch


def _failure(item: Item, stage: str, error: Exception) -> Failure:
    return Failure(item.source.path, stage, f"{type(error).__name__}: {error}")
