# SPDX-License-Identifier: Apache-2.0
"""How long a build will take, from a few samples that are decoded and encoded to no other end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffnext.data.batching import Batcher
from diffnext.data.cache import make_order
from diffnext.data.cache_plan import Plan, Task
from diffnext.data.decoding import LIMIT_S, Decoded, decode_ahead, view_bytes
from diffnext.data.encoding import Encode, PatientEncoder

SHORT_S = 5.0  # a batch that was quicker is encoded again, now that the autoencoder is warm


@dataclass(frozen=True)
class Rates:
    """Speeds of the two stages that count, in bytes of frames a second; 0: not known."""

    decode: float  # of all workers together
    encode: float

    def seconds(self, num_bytes: int) -> float | None:
        """How long a build of so many bytes of frames takes; None if that is not known.

        The stages work side by side, so the slower one decides.
        """
        slower = min(self.decode, self.encode)
        return num_bytes / slower if slower else None


def frame_bytes(tasks: Sequence[Task]) -> int:
    """Size of the frames that are decoded for some tasks."""
    return sum(view_bytes(item.view) for task in tasks for item in task.items)


def probe_rates(
    plan: Plan,
    encode: Encode,
    *,
    count: int = 8,
    batch_size: int = 8,
    workers: int = 2,
    decode_timeout_s: float = LIMIT_S,
) -> Rates:
    """Decode and encode `count` media, spread over the plan, as a build would. Nothing is written.

    Media that fail are left out; the build will report them.

    Raises:
        ValueError: the autoencoder fails on everything.
    """
    count = min(count, len(plan.tasks))
    tasks = [plan.tasks[i * len(plan.tasks) // count] for i in range(count)]
    orders = ((task, make_order(task, plan)) for task in tasks)
    decoded = decode_ahead(orders, workers=workers, limit_s=decode_timeout_s)
    with contextlib.closing(decoded):
        good = [outcome for _, outcome in decoded if isinstance(outcome, Decoded)]
    busy_s = sum(outcome.seconds for outcome in good)
    num_bytes = sum(clip.nbytes for outcome in good for clip in outcome.clips)
    decode = num_bytes * max(1, workers) / busy_s if busy_s else 0.0
    return Rates(decode, _encode_rate(good, encode, batch_size))


def _encode_rate(decoded: Sequence[Decoded], encode: Encode, batch_size: int) -> float:
    """Bytes a second that are encoded, in batches as a build would make them."""
    patient = PatientEncoder(encode)
    clips = [clip for outcome in decoded for clip in outcome.clips]
    batcher: Batcher[np.ndarray] = Batcher(batch_size, [clip.nbytes for clip in clips])
    batches = [batch for clip in clips for batch in batcher.add(clip.shape, clip)]
    num_bytes, busy_s = 0, 0.0
    for batch in [*batches, *batcher.rest()]:
        taken_s, good = _timed(patient, batch)
        if taken_s < SHORT_S:
            taken_s, good = _timed(patient, batch)
        busy_s += taken_s
        num_bytes += good * batch[0].nbytes
    return num_bytes / busy_s if busy_s else 0.0


def _timed(encode: PatientEncoder, batch: Sequence[np.ndarray]) -> tuple[float, int]:
    """Seconds that a batch takes, and how many of its samples can be encoded."""
    start = time.perf_counter()
    outcomes = encode(batch)
    good = sum(not isinstance(outcome, Exception) for outcome in outcomes)
    return time.perf_counter() - start, good
