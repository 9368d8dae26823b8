# SPDX-License-Identifier: Apache-2.0
"""Media to moments to records: decoded ahead in threads, encoded in batches; errors are noted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from diffnext.data import media
from diffnext.data.cache_plan import Item, Plan
from diffnext.data.journal import write_ledger
from diffnext.data.records import RecordWriter, open_writer, write_identity
from diffnext.data.sources import Failure
from diffnext.data.threads import map_ahead

Outcome = np.ndarray | Exception


@dataclass
class Report:
    """What a build did."""

    written: int = 0
    failures: list[Failure] = field(default_factory=list)


class Encoder:
    """Pixels to moments by an autoencoder that is on its device and in its precision.

    Args:
        vae: `encode(x).latent_dist.parameters` of x in [-1, 1] are the moments.
        video: whether x has a time axis, (B, 3, T, H, W), or not, (B, 3, H, W).
    """

    def __init__(self, vae: Any, *, video: bool) -> None:
        weight = next(vae.parameters())
        self.vae, self.video = vae, video
        self.device, self.dtype = weight.device, weight.dtype

    @torch.no_grad()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Encode uint8 frames (B, T, H, W, 3). Returns float16 (B, 2C, [T',] H', W')."""
        x = torch.from_numpy(frames.transpose(0, 4, 1, 2, 3)).to(self.device)  # (B, 3, T, H, W)
        x = (
            x.to(self.dtype).sub(127.5).div(127.5)
        )  # exact in float16 and bfloat16 but for the division
        if not self.video:
            x = x[:, :, 0]
        moments = self.vae.encode(x).latent_dist.parameters
        return moments.to(torch.float16).cpu().numpy()


def build(
    plan: Plan,
    encode: Callable[[np.ndarray], np.ndarray],
    *,
    batch_size: int = 8,
    workers: int = 4,
    advance: Callable[[int], None] = lambda count: None,
) -> Report:
    """Encode what is planned and add it to the cache.

    A medium that cannot be decoded or encoded is reported and left out. A build that is interrupted
    leaves what was written; the same plan made again goes on from there.

    Args:
        encode: frames (B, T, H, W, 3) uint8 to moments (B, ...) float16.
        batch_size: samples that are encoded together.
        workers: threads that decode ahead of the encoder.
        advance: called with the number of samples that were dealt with.
    """
    report = Report(failures=list(plan.failures))
    if plan.items or not plan.finished:
        write_identity(plan.output, plan.identity)
        plan.journal.rewrite()
        with _writer(plan) as writer:
            for batch in _decoded_batches(plan, batch_size, workers):
                report.written += _store(batch, encode, plan, writer, report.failures)
                advance(len(batch))
    write_ledger(plan.output, [*report.failures, *plan.dropped])
    return report


def _writer(plan: Plan) -> RecordWriter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an unfinished folder: to go on with it is the purpose
        return open_writer(plan.output, plan.fields, append=True)


def _store(
    batch: Sequence[tuple[Item, Outcome]],
    encode: Callable[[np.ndarray], np.ndarray],
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
    for (item, _), outcome in zip(
        good, _encode([frames for _, frames in good], encode), strict=True
    ):
        problem = outcome if isinstance(outcome, Exception) else _problem(outcome, plan)
        if problem is not None:
            failures.append(_failure(item, "encode", problem))
        else:
            encoded.append((item, outcome))
    plan.journal.append([item.entry for item, _ in encoded])  # before the records: see journal.py
    for item, moments in encoded:
        writer.write(_record(item, moments, plan))
    return len(encoded)


def _encode(
    frames: Sequence[np.ndarray], encode: Callable[[np.ndarray], np.ndarray]
) -> Sequence[Outcome]:
    """Encode a batch; one that fails as a whole is taken sample by sample."""
    if not frames:
        return []
    try:
        return list(encode(np.stack(frames)))
    except (RuntimeError, ValueError) as error:  # out of memory among them
        if len(frames) == 1:
            return [error]
    return [_encode([sample], encode)[0] for sample in frames]


def _problem(moments: np.ndarray, plan: Plan) -> ValueError | None:
    """Say what makes moments unfit to train on."""
    shape = plan.latents.shape(plan.cut)
    if moments.shape != shape:
        raise ValueError(f"the autoencoder gave moments {moments.shape}, {shape} were planned")
    if not np.isfinite(moments).all():
        return ValueError("moments are NaN or beyond the range of float16")
    mean = moments[: len(moments) // 2]
    if mean.min() == mean.max():
        return ValueError(f"moments are constant, {float(mean.flat[0]):g} everywhere")
    return None


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
