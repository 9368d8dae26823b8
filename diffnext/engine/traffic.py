# SPDX-License-Identifier: Apache-2.0
"""Bytes that a process holds for what travels: whole weights, and gradients on their way to their owners.

Read in the sources of PyTorch 2.13 and DeepSpeed 0.19, and compared with what runs allocate.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from diffnext.engine.blocks import repeated_blocks
from diffnext.engine.sharding import Sharding

_FLAT = 500_000_000  # gradients that DeepSpeed's stage 0 lays side by side to exchange them


@dataclass(frozen=True)
class Traffic:
    """Bytes beyond a process's own weights, gradients and optimizer state."""

    gathered: int = 0  # weights of other processes
    backward: int = 0  # while gradients come
    update: int = 0  # while the optimizer steps: activations and gathered weights are gone by then


@dataclass(frozen=True)
class Counts:
    """How many numbers a network has."""

    every: int
    learning: int
    largest: int  # of one tensor that learns
    block: int  # of the largest of the repeated blocks
    outside: int  # of these

    @classmethod
    def of(cls, net: nn.Module) -> Counts:
        learning = [p.numel() for p in net.parameters() if p.requires_grad]
        blocks = [sum(p.numel() for p in b.parameters()) for b in repeated_blocks(net)]
        every = sum(p.numel() for p in net.parameters())
        outside = every - sum(blocks)
        return cls(every, sum(learning), max(learning), max(blocks, default=0), outside)


def traffic_of(net: nn.Module, sharding: Sharding) -> Traffic:
    """What travels, by backend.

    Args:
        net: may be on the meta device.
    """
    counts = Counts.of(net)
    if sharding.backend == "ddp":  # buckets are the gradients themselves, but for the last one
        return Traffic(backward=4 * counts.largest)
    if sharding.backend == "fsdp":
        return _fsdp(counts, sharding)
    if sharding.backend == "deepspeed":
        return _zero(counts, sharding)
    return Traffic()


def _fsdp(counts: Counts, sharding: Sharding) -> Traffic:
    """Blocks are gathered one ahead; gradients of one are copied, and sent while the next ones come."""
    size = bytes_of(sharding.gather_dtype)
    held = counts.outside + 2 * counts.block if sharding.reshard else counts.every
    sent = max(
        (4 + size) * counts.block + size * counts.outside,
        (4 + size) * counts.outside,  # which come last
    )
    if sharding.accum_steps > 1:  # whole gradients stay until the last micro-batch
        sent = 4 * counts.learning + (4 + size) * counts.block
    return Traffic(gathered=size * min(held, counts.every), backward=sent)


def _zero(counts: Counts, sharding: Sharding) -> Traffic:
    """A bucket is filled, laid flat once more to be exchanged, and each process keeps its part."""
    zero, size = sharding.zero, bytes_of(sharding.precision)
    if zero.stage == 0:
        return Traffic(backward=4 * min(counts.learning, _FLAT))
    own = counts.learning // sharding.world
    filled = min(counts.learning, max(zero.reduce_bucket, counts.largest))
    buckets = 0
    if zero.contiguous:
        buckets = zero.reduce_bucket * (2 if zero.overlap and zero.stage < 3 else 1)
    sent = buckets + filled
    if "optimizer" in sharding.host:
        sent += counts.largest + (counts.learning if sharding.whole_gradients else 0)
        update = 0
    else:
        if sharding.whole_gradients:  # which give way to what is filled
            sent = buckets + own
        elif zero.stage == 2 and sharding.accum_steps > 1:  # those of the micro-batches before
            sent += own
        update = min(own, zero.sub_group // sharding.world) if zero.stage == 3 else own
    return Traffic(
        gathered=size * _live(counts, sharding) if zero.stage == 3 else 0,
        backward=size * sent,
        update=(size + (4 if size < 4 else 0)) * update,
    )


def _live(counts: Counts, sharding: Sharding) -> int:
    """Weights that stage 3 holds whole: used again soon, or gathered ahead; what has just come, twice.

    In each module it gathers another `prefetch` ahead, until there are `live`.
    """
    zero = sharding.zero
    if sharding.world == 1 and "weights" not in sharding.host:
        return 0
    held = max(zero.live, zero.reuse // 2) + max(counts.block, counts.largest)
    return min(counts.every, held) + min(zero.prefetch, zero.live, counts.every)


def bytes_of(precision: str) -> int:
    """Bytes of a number."""
    return 4 if precision == "float32" else 2
