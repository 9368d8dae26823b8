# SPDX-License-Identifier: Apache-2.0
"""Writes the checkpoints of a run, beside its steps or between them, and puts the run back to one.

<run>/checkpoints/<prefix>_iter_<step>/
    <module>/      the network in the layout of diffusers
    state/         tensors by name: roles.<role>.<module>.<weight>, optimizers.<role>.<weight>.<field>,
                   ema.<role>.<module>.<weight>, ema_<decay>... of further averages, scalers.<role>.<field>,
                   schedulers.<role>.begin, random_state.seed, method.<field>
    run.json       step, loader, method, what was begun anew, configuration, versions
    complete.json  written last: every file with its size
<run>/latest.json the checkpoint that was completed last
<run>/best.json   the one that did best on held-out data, if some were evaluated
<run>/ema_checkpoints/<prefix>_iter_<step>/<module>/  the running average, in the layout of diffusers;
                   further ones in ema_<decay>_checkpoints
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from diffnext.distributed import env as processes
from diffnext.distributed.side import SideChannel
from diffnext.engine.checkpoint.content import Content
from diffnext.engine.checkpoint.folders import Checkpoint, find_flaw
from diffnext.engine.checkpoint.pointers import Score, point_at_best, point_at_latest
from diffnext.engine.checkpoint.publish import Export, clear, draft_of, publish
from diffnext.engine.checkpoint.retention import forget, sweep
from diffnext.engine.checkpoint.staging import HostCopies, size_bytes
from diffnext.engine.checkpoint.start import Start
from diffnext.engine.tensors import SavedTensors, save_tensors
from diffnext.utils.logging import logger
from diffnext.utils.threads import one_thread

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer

# what a storage recovers from, so that training need not end: it is full, or out of reach for a while
_PASSING = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


class LastSaveError(OSError):
    """The last checkpoint of a run could not be written; those before it stay."""


@dataclass(frozen=True)
class Job:
    """A checkpoint to write; nothing in it moves with the run."""

    tensors: Mapping[str, Tensor]
    copies: Mapping[str, Tensor]  # to write; the tensors say how these are sharded
    export: Export
    run: dict[str, Any]
    size: int  # bytes that this process adds


class CheckpointManager:
    """Writes and reads the checkpoints of a run.

    Args:
        run_folder: the experiment folder, seen by all processes.
        prefix: first part of the names of checkpoints.
        content: what they hold.
        about: configuration and versions, kept for the reader.
        keep: how many checkpoints remain; 0 keeps all.
        keep_every: checkpoints of steps divisible by this remain for ever; 0 for none.
        background: write while training goes on; it then waits for a copy in the host's memory only.
        start: where this run goes on from, if it does.
    """

    def __init__(
        self,
        run_folder: str | Path,
        *,
        prefix: str,
        content: Content,
        about: dict[str, Any],
        keep: int = 0,
        keep_every: int = 0,
        background: bool = True,
        start: Start | None = None,
    ) -> None:
        self.run_folder = Path(run_folder)
        self.prefix = prefix
        self.content = content
        self.about = about
        self.keep = keep
        self.keep_every = keep_every
        self.background = background
        self.start = start
        self._begin = 0 if start is None else start.begin
        self._channel = SideChannel()
        self._copies = HostCopies()
        self._pool = one_thread("checkpoint")
        self._running: Future[None] | None = None
        self._failed: OSError | None = None  # why the latest checkpoint is not there
        self._awaited = False  # whether the steps wait for the one that is being written
        self._working = False  # whether this process writes its part, or waits for others

    @property
    def phase(self) -> str:
        """If steps wait for a checkpoint: "saving" for this process's part, "saved" for the others'."""
        if not self._awaited:
            return ""
        return "saving" if self._working else "saved"

    def load(self, trainer: Trainer) -> None:
        """Put a run back to `start`. Collective.

        Raises:
            ValueError: names that the checkpoint or the run lacks.
        """
        start = self.start
        saved = SavedTensors(start.checkpoint.folder / "state")
        self.content.restore(saved, start.checkpoint.run(), trainer, resets=set(start.resets))
        logger.info(f"resumed from {start.checkpoint.folder} at step {trainer.step}")

    def save(self, trainer: Trainer, *, score: Score | None = None) -> None:
        """Write a checkpoint aside, make it durable, rename it. Collective.

        Waits for the one before. A torn checkpoint of the same step is replaced, a complete one is
        not. Where the storage is full or out of reach, a warning says so and training goes on.

        Args:
            score: of these weights, if they were evaluated.

        Raises:
            FileExistsError: there is a complete one of this step.
            OSError, RuntimeError: this one, or the one before, could not be written for another reason.
        """
        self.wait()
        job = self._job(trainer, score)
        if job.copies:
            self._running = self._pool.submit(self._write, job)
        else:
            self._settle(lambda: self._write(job))

    def wait(self) -> None:
        """Wait for the checkpoint that is being written. See `save` for what it raises."""
        running, self._running = self._running, None
        if running is not None:
            self._settle(running.result)

    def check(self) -> None:
        """Raise what has gone wrong in the background, as far as that is known; waits for nothing."""
        if self._running is not None and self._running.done():
            self.wait()

    def finish(self) -> None:
        """Wait for the last checkpoint of the run.

        Raises:
            LastSaveError: it could not be written.
        """
        self.wait()
        if self._failed is not None:
            remedy = "the last checkpoint is missing; make room and run the same command again"
            number, reason = self._failed.errno, self._failed.strerror
            raise LastSaveError(number, f"{reason}: {remedy}", self._failed.filename)

    def close(self) -> None:
        """Let a checkpoint that is being written come to its end, also after an error."""
        self._pool.shutdown(wait=True)

    def _settle(self, outcome: Callable[[], None]) -> None:
        self._failed = None
        self._awaited = True
        try:
            outcome()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            # not the error itself, whose traceback holds the copies of the whole run
            self._failed = OSError(error.errno, error.strerror, error.filename)
        finally:
            self._awaited = False

    # ------------------------------------------------------------------------- between two steps

    def _job(self, trainer: Trainer, score: Score | None) -> Job:
        """Take what is to be written; the step waits for this."""
        tensors = self.content.tensors(trainer, begin=self._begin)
        role = trainer.method.learning[0]
        averages = list(self.content.averages())
        net = trainer.backend.learners[role].net
        weights = {k: t for k, t in tensors.items() if k.startswith(f"roles.{role}.")}
        first = processes.rank() == 0
        size = size_bytes(tensors, first=first)
        size += (1 + len(averages)) * size_bytes(weights, first=first)
        copies: dict[str, Tensor] = {}
        if self.background and self._copies.fit(tensors):
            copies = self._copies.take(tensors)
            tensors = {k: t if isinstance(t, DTensor) else copies[k] for k, t in tensors.items()}
        elif self.background:
            logger.warning("the host lacks memory for a copy of the run; training waits for saves")
        resets = {} if self.start is None else dict(self.start.done)
        run = self.content.run(trainer) | {"resets": resets, "about": self.about}
        run |= {} if score is None else {"score": score}
        return Job(tensors, copies, Export(net, role, self.content.module, averages), run, size)

    # -------------------------------------------------------------------------- beside the steps

    def _write(self, job: Job) -> None:
        """Write one checkpoint; all processes at the same time, over a channel of their own."""
        name = f"{self.prefix}_iter_{job.run['step']}"
        final = self.run_folder / "checkpoints" / name
        aside = draft_of(final)
        size = self._channel.total(job.size)
        try:
            self._on_first(lambda: self._prepare(aside, final, size))
            save_tensors(
                job.tensors,
                aside / "state",
                copies=job.copies,
                group=self._channel.group,
                writing=self._at_work,
            )
            self._on_first(lambda: self._publish(aside, final, job))
        except Exception as error:
            if processes.rank() == 0:
                self._give_up(final, size, error)
            raise

    def _on_first(self, work: Callable[[], None]) -> None:
        def busy() -> None:
            with self._at_work():
                work()

        self._channel.on_first(busy)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Around what this process does by itself; elsewhere `_write` waits for the others."""
        self._working = True
        try:
            yield
        finally:
            self._working = False

    def _prepare(self, aside: Path, final: Path, size: int) -> None:
        if final.exists() and find_flaw(final) is None:
            raise FileExistsError(errno.EEXIST, "it exists and is not overwritten", str(final))
        sweep(self.run_folder)
        clear(aside)
        if shutil.disk_usage(aside).free < size:
            raise OSError(errno.ENOSPC, "too little space", str(aside.parent))

    def _publish(self, aside: Path, final: Path, job: Job) -> None:
        publish(aside, final, export=job.export, run=job.run)
        logger.info(f"saved {final}")
        spare = [] if self.start is None else [self.start.checkpoint.folder]
        try:  # the checkpoint is there, whatever fails now
            point_at_latest(self.run_folder, Checkpoint(final, job.run["step"]))
            best = point_at_best(self.run_folder)
            spare += [] if best is None else [best.folder]
            forget(self.run_folder, keep=self.keep, keep_every=self.keep_every, spare=spare)
        except OSError as error:
            logger.warning(
                f"latest.json or best.json is old, or an old checkpoint is not removed: {error}"
            )

    def _give_up(self, final: Path, size: int, error: Exception) -> None:
        """Say why there is no checkpoint, and leave none of its bytes on a disk that may be full."""
        sweep(self.run_folder)
        free = shutil.disk_usage(self.run_folder).free
        logger.warning(
            f"{final} could not be written: {error}. It needs {size / 2**30:.3f} GiB, "
            f"{free / 2**30:.3f} GiB are free; older checkpoints stay"
        )
