# SPDX-License-Identifier: Apache-2.0
"""How many floating point operations something takes, and how many a second one product reaches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

SIDES = {"cuda": 8192, "cpu": 1024}  # of the matrices of a product that keeps a device busy


@dataclass(frozen=True)
class Speed:
    """What a step takes, and what the device can do."""

    flops: float  # a step
    peak: float  # flops a second

    def share(self, seconds: float) -> float:
        """The part of the peak that a step of that duration reaches."""
        return self.flops / seconds / self.peak

    def __str__(self) -> str:
        return f"{self.flops / 1e9:.1f} GFLOP a step, {self.peak / 1e9:.1f} GFLOP/s in a product"


def counted(work: Callable[[], object]) -> int:
    """Operations of products, convolutions and attention, forward and backward; others are few."""
    ops = torch.ops.aten
    kernels = {  # that PyTorch's own table lacks
        ops._scaled_dot_product_flash_attention_for_cpu: _attention,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        work()
    return counter.get_total_flops()


def _attention(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: object, **__: object
) -> int:
    """Takes shapes."""
    return sdpa_flop_count(q, k, v)


def _attention_backward(
    grad: Sequence[int],
    q: Sequence[int],
    k: Sequence[int],
    v: Sequence[int],
    *_: object,
    **__: object,
) -> int:
    """Takes shapes."""
    return sdpa_backward_flop_count(grad, q, k, v)


def product_speed(device: torch.device, dtype: torch.dtype, *, repeats: int = 5) -> float:
    """Operations a second of one product of large matrices, the best of a few."""
    side = SIDES[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best
