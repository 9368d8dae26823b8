# SPDX-License-Identifier: Apache-2.0
"""Media to moments to records: decoded ahead by workers, encoded in batches of one size, written.

    tasks -> decode workers -> samples that wait for their batch -> autoencoder -> writer
             decoding.py       batching.py                          encoding.py    cache_sink.py

What waits between two stages is bounded, so that the slowest one sets the pace of all. A batch is
written before the next is encoded; what of that takes long is done meanwhile (see cache_sink.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from diffnext.data.batching import Batcher
from diffnext.data.cache_folder import open_journal
from diffnext.data.cache_plan import Item, Plan, Task
from diffnext.data.cache_sink import RecordSink, Row
from diffnext.data.decoding import LIMIT_S, Decoded, Order, decode_ahead
from diffnext.data.encoding import Encode, PatientEncoder, flaw, is_out_of_memory
from diffnext.data.fetching import FETCH, is_of_network
from diffnext.data.journal import Entry
from diffnext.data.latents import Latents
from diffnext.data.ledger import write_ledger
from diffnext.data.progress import Meter
from diffnext.data.prompt_cache import Find, embed
from diffnext.data.records.lock import FolderLock
from diffnext.data.sources import Failure, Source
from diffnext.data.worker import WorkError


@dataclass
class Report:
    """What a build did."""

    written: int = 0
    failures: list[Failure] = field(default_factory=list)

    def fail(self, item: Item, failure: Failure) -> None:
        """Note a sample that does not come into the cache."""
        self.failures.append(failure)


class Recipe(Protocol):
    """What there is to know for making samples, whichever they are; a plan is one."""

    latents: Latents
    fields: dict[str, Any]  # of a record: name -> type
    prompts: Find | None  # embeddings of texts; None: captions are stored as texts


@dataclass(frozen=True)
class Sample:
    """A sample that was decoded."""

    item: Item
    frames: np.ndarray  # (T, H, W, 3) uint8
    entry: Entry  # its line in the journal
    flow: float | None  # motion score, where the build computes it

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes


def build(
    plan: Plan,
    encode: Encode | None,
    *,
    batch_size: int = 8,
    workers: int = 2,
    decode_timeout_s: float = LIMIT_S,
    lock: FolderLock | None = None,
    show: Callable[[Meter], None] = lambda meter: None,
) -> Report:
    """Encode what is planned and add it to the cache.

    A medium that cannot be decoded or encoded is reported and left out. A build that is interrupted
    leaves what was written; the same plan made again goes on from there. Records come in the order of
    the plan, batch by batch; but a medium that holds up others for seconds comes later than they do.

    Args:
        encode: frames (B, T, H, W, 3) uint8 to moments (B, ...) float16; None where nothing is planned.
        batch_size: samples of the smallest size in the plan that are encoded together; of larger
            ones as many as have no more pixels.
        workers: processes that decode ahead of the encoder; 0 decodes here, without a time limit.
        decode_timeout_s: seconds after which the decoding of a medium is given up.
        lock: on the output, held by the caller since before the plan; without one, the build takes
            its own, and refuses a plan that another build has made out of date.
        show: called after each step with where the build is.

    Raises:
        ValueError: the output is in use or has changed, or the autoencoder fails on everything.
    """
    report = Report(failures=list(plan.failures))
    with _held(plan, lock) as held:
        try:
            if plan.is_due:
                plan.begin()
            if plan.tasks or not plan.finished:
                meter = make_meter(plan.tasks, workers)
                orders = ((task, make_order(task, plan)) for task in plan.tasks)
                decoded = decode_ahead(orders, workers=workers, limit_s=decode_timeout_s)
                batcher = Batcher(batch_size, {view.num_bytes for view in plan.views()})
                with (
                    RecordSink(
                        plan.output, plan.fields, plan.journal, lock=held, stage=meter.write
                    ) as sink,
                    contextlib.closing(decoded),
                ):
                    Line(plan, encode, sink, report, meter, batcher).run(decoded, show)
                report.written = sink.written
        finally:
            write_ledger(plan.output, [*report.failures, *plan.dropped])
    return report


class Line:
    """The middle of a build: what the workers decoded becomes batches, moments, and rows for the sink.

    Args:
        recipe: shapes and fields of the samples.
        report: failures are added to it.
        meter: is told what was done.
        batcher: empty; where samples wait for others of their size.
    """

    def __init__(
        self,
        recipe: Recipe,
        encode: Encode | None,
        sink: RecordSink,
        report: Report,
        meter: Meter,
        batcher: Batcher[Sample],
    ) -> None:
        self._recipe, self._sink, self._report, self._meter = recipe, sink, report, meter
        self._encode, self._batcher = PatientEncoder(encode), batcher
        # in batches that failed as a whole, without one since that did not
        self._suspected: list[tuple[Item, Failure]] = []

    def run(
        self,
        decoded: Iterable[tuple[Task, Decoded | WorkError]],
        show: Callable[[Meter], None],
    ) -> None:
        """Take all that is decoded through the encoder to the sink."""
        for task, outcome in decoded:
            for sample in self._samples(task, outcome):
                for batch in self._batcher.add(sample.item.view.bucket, sample):
                    self._store(batch)
            task.source.location.release()
            show(self._meter)
        for batch in self._batcher.rest():
            self._store(batch)
            show(self._meter)
        self._settle_suspected()

    def _samples(self, task: Task, outcome: Decoded | WorkError) -> Iterator[Sample]:
        """The samples of a medium; none, and its failures noted, if it could not be decoded."""
        if isinstance(outcome, WorkError):
            for item in task.items:
                self._report.fail(item, _decode_failure(item, outcome))
            self._meter.advance(len(task.views), task.num_bytes)
            return
        self._meter.decode.add(len(task.views), outcome.seconds)
        content = task.content or outcome.content
        for item, frames, flow in zip(task.items, outcome.clips, outcome.flows, strict=True):
            yield Sample(item, frames, item.entry(content), flow)

    def _store(self, batch: Sequence[Sample]) -> None:
        """Encode one batch and hand it to the sink."""
        self._sink.announce([sample.entry for sample in batch])
        with self._meter.encode.at_work(len(batch)):
            outcomes = self._encode([sample.frames for sample in batch])
        rows: list[Row] = []
        known = self._known([sample.item.source for sample in batch])
        for sample, outcome, fields in zip(batch, outcomes, known, strict=True):
            errors = [one for one in (outcome, fields) if isinstance(one, Exception)]
            problem = errors[0] if errors else flaw(outcome)
            if problem is not None:
                self._suspected.append((sample.item, _encode_failure(sample.item, problem)))
            else:
                _check_shape(sample.item, outcome, self._recipe)
                rows.append((sample.entry, _record(sample, outcome, fields, self._recipe)))
        if rows:  # so it is the samples that failed, not the autoencoder
            self._settle_suspected()
        self._sink.put(rows)
        self._meter.advance(len(batch), sum(sample.nbytes for sample in batch))

    def _known(self, sources: Sequence[Source]) -> list[dict[str, Any] | Exception]:
        """What records hold besides moments, or the error where a caption cannot be embedded."""
        known = [source.fields() for source in sources]
        return known if self._recipe.prompts is None else embed(known, self._recipe.prompts)

    def _settle_suspected(self) -> None:
        for item, failure in self._suspected:
            self._report.fail(item, failure)
        self._suspected = []


def make_order(task: Task, recipe: Recipe) -> Order:
    """What a worker has to do for a task."""
    scored = "flow" in recipe.fields and task.source.flow is None
    return Order(
        task.source.location, task.views, task.stamp, hashed=not task.content, scored=scored
    )


def make_meter(tasks: Sequence[Task], workers: int) -> Meter:
    """A meter for what is to be built."""
    samples = sum(len(task.views) for task in tasks)
    return Meter(samples, sum(task.num_bytes for task in tasks), workers)


@contextlib.contextmanager
def _held(plan: Plan, lock: FolderLock | None) -> Iterator[FolderLock]:
    if lock is not None:
        yield lock
        return
    with FolderLock(plan.output) as own:
        now = open_journal(plan.output)[0].entries
        if now.keys() != plan.journal.entries.keys():
            raise ValueError(
                f"{plan.output} was changed by another build after this one was planned; plan again"
            )
        yield own


def _decode_failure(item: Item, error: WorkError) -> Failure:
    """What the ledger says; where bytes could not be had, it is tried again next time."""
    if is_of_network(error, item.source.location):
        return replace(item.failure(FETCH, str(error)), attempt="")
    return item.failure("decode", str(error))


def _encode_failure(item: Item, error: Exception) -> Failure:
    """What the ledger says; a lack of memory is not the sample's, and it is tried again next time."""
    failure = item.failure("encode", f"{type(error).__name__}: {error}")
    return replace(failure, attempt="") if is_out_of_memory(error) else failure


def _check_shape(item: Item, moments: np.ndarray, recipe: Recipe) -> None:
    """Stop where the autoencoder is not the one that was planned with: no sample would fit."""
    shape = recipe.latents.shape(item.view)
    if moments.shape != shape:
        raise ValueError(
            f"{item.source.path}: the autoencoder gave moments {moments.shape}, {shape} were planned"
        )


def _record(
    sample: Sample, moments: np.ndarray, known: Mapping[str, Any], recipe: Recipe
) -> dict[str, Any]:
    fields = dict(known)
    if sample.flow is not None:
        fields["flow"] = sample.flow
    return {
        "shape": list(moments.shape),
        "moments": np.ascontiguousarray(moments, dtype="<f2").tobytes(),
        **{name: fields[name] for name in recipe.fields if name in fields},
    }
