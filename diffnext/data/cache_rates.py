# SPDX-License-Identifier: Apache-2.0
"""How long a build will take, from a few samples that are decoded and encoded to no other end."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffnext.data.batching import Batcher
from diffnext.data.cache import make_order
from diffnext.data.cache_plan import Plan, Task
from diffnext.data.decoding import LIMIT_S, Decoded, decode_ahead
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

    What there are more frames of comes more often: a few videos may take longer than all pictures.

    Media that fail are left out; the build will report them.

    Raises:
        ValueError: the autoencoder fails on everything.
    """
    orders = ((task, make_order(task, plan)) for task in _spread(plan.tasks, count))
    decoded = decode_ahead(orders, workers=workers, limit_s=decode_timeout_s)
    with contextlib.closing(decoded):
        good = [outcome for _, outcome in decoded if isinstance(outcome, Decoded)]
    busy_s = sum(outcome.seconds for outcome in good)
    num_bytes = sum(clip.nbytes for outcome in good for clip in outcome.clips)
    decode = num_bytes * max(1, workers) / busy_s if busy_s else 0.0
    clips = [clip for outcome in good for clip in outcome.clips]
    views = Counter(plan.views())
    batcher: Batcher[np.ndarray] = Batcher(batch_size, [view.num_bytes for view in views])
    batches = [batch for clip in clips for batch in batcher.add(clip.shape, clip)]
    held: Counter[tuple[int, ...]] = Counter()
    for view, number in views.items():
        held[(*view.bucket, 3)] += number * view.num_bytes
    return Rates(decode, _encode_rate([*batches, *batcher.rest()], encode, held))


def _spread(tasks: Sequence[Task], count: int) -> list[Task]:
    """At most `count` tasks, each in the middle of as many bytes of frames."""
    ends = np.cumsum([task.num_bytes for task in tasks])
    marks = (np.arange(count) + 0.5) / count * ends[-1] if tasks else []
    return [tasks[place] for place in np.unique(np.searchsorted(ends, marks))]


def _encode_rate(
    batches: Sequence[Sequence[np.ndarray]], encode: Encode, held: Mapping[tuple[int, ...], int]
) -> float:
    """Bytes a second of a whole plan that are encoded; each size has a speed of its own.

    Args:
        batches: as a build would make them, of the media that are probed.
        held: bytes of frames of each size in the plan.
    """
    patient = PatientEncoder(encode)
    num_bytes: Counter[tuple[int, ...]] = Counter()
    busy_s: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for batch in batches:
        taken_s, good = _timed(patient, batch)
        if taken_s < SHORT_S:
            taken_s, good = _timed(patient, batch)
        busy_s[batch[0].shape] += taken_s
        num_bytes[batch[0].shape] += good * batch[0].nbytes
    seen = [shape for shape in held if num_bytes[shape]]
    seconds = sum(held[shape] * busy_s[shape] / num_bytes[shape] for shape in seen)
    return sum(held[shape] for shape in seen) / seconds if seconds else 0.0


def _timed(encode: PatientEncoder, batch: Sequence[np.ndarray]) -> tuple[float, int]:
    """Seconds that a batch takes, and how many of its samples can be encoded."""
    start = time.perf_counter()
    outcomes = encode(batch)
    good = sum(not isinstance(outcome, Exception) for outcome in outcomes)
    return time.perf_counter() - start, good
