# SPDX-License-Identifier: Apache-2.0
"""What the trainer adds to a step, in CPU seconds, and how long it waits for a cache that it reads."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from diffnext.data.loader import Loader
from diffnext.data.records import open_reader, open_writer
from diffnext.engine.hooks.guard import GuardHook
from diffnext.engine.hooks.moved import MovedHook
from diffnext.engine.trainer import Trainer

STEP_S = 0.1  # the step that the overhead is a share of
BLOCK = 40  # steps that are timed as one; the hooks read the device twice in them
TURNS = 9
DISPLAY = 20  # SOLVER.DISPLAY
RECORDS = 512

Step = Callable[[Trainer], object]


def write_cache(folder: Path, *, side: int, width: int) -> None:
    """Records of pictures: random moments (8, side, side) and embeddings (8, width) of prompts."""
    fields = {
        "moments": "bytes",
        "shape": ["int64"],
        "caption": {"data": "bytes", "shape": ["int64"]},
    }
    rng = np.random.default_rng(0)
    with open_writer(folder, fields) as writer:
        for _ in range(RECORDS):
            moments = rng.standard_normal((8, side, side)).astype(np.float16)
            prompt = rng.standard_normal((8, width)).astype(np.float16)
            writer.write(
                {
                    "moments": moments.tobytes(),
                    "shape": list(moments.shape),
                    "caption": {"data": prompt.tobytes(), "shape": list(prompt.shape)},
                }
            )


@contextmanager
def reading(trainer: Trainer) -> Iterator[None]:
    """Within, the trainer reads a cache as a run does and has the hooks of a run."""
    batch = next(trainer.batches)
    with tempfile.TemporaryDirectory() as folder:
        write_cache(
            Path(folder, "cache"), side=batch.moments.size(-1), width=batch.prompts[0].size(-1)
        )
        trainer.batches = Loader(open_reader(Path(folder, "cache")), batch_size=len(batch), seed=0)
        hooks = [
            MovedHook(every=DISPLAY),
            GuardHook(folder, every=DISPLAY, limit=100, describe=str),
        ]
        for hook in hooks:
            hook.before_train(trainer)
        log = trainer.hooks[0]
        log.display = DISPLAY
        trainer.hooks = [log, *hooks]
        try:
            yield
        finally:
            trainer.batches.close()


def block(trainer: Trainer, step: Step) -> tuple[float, float]:
    """CPU seconds of one step, all threads included, and seconds that it waits for data."""
    wait, begin = 0.0, time.process_time()
    for _ in range(BLOCK):
        step(trainer)
        wait += trainer.data_wait_s
    return (time.process_time() - begin) / BLOCK, wait / BLOCK


def print_overhead(trainer: Trainer, *, plain: Step, whole: Step) -> None:
    """Compare a hand-written loop with the trainer, turn by turn; both read the same cache.

    The steps are short, so that what surrounds them is a part worth measuring, and loaders have less
    time ahead than in a real run.
    """
    with reading(trainer):
        block(trainer, plain)
        block(trainer, whole)
        turns = [(block(trainer, plain)[0], *block(trainer, whole)) for _ in range(TURNS)]
    low, high, wait = (statistics.median(column) for column in zip(*turns, strict=True))
    added = statistics.median(high - low for low, high, _ in turns)
    print(f"plain    {1e3 * low:7.2f} ms of CPU time a step")
    print(f"trainer  {1e3 * high:7.2f} ms of CPU time a step")
    print(
        f"overhead {1e3 * added:7.2f} ms: {added / STEP_S:.2%} of a step of {1e3 * STEP_S:.0f} ms"
    )
    print(f"data     {1e3 * wait:7.2f} ms of waiting: {wait / STEP_S:.2%} of such a step")
