# SPDX-License-Identifier: Apache-2.0
"""Gives memory that glibc keeps between live tensors back to the system, in training on a CPU.

Before version 2.38 glibc cannot put an aligned block into a hole of its own size. So activations do not
fill the holes of the last gradients, nor gradients those of activations: a tenth of a run's memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from torch import nn

WORTH_BYTES = 256 * 2**20  # of weights that learn; holes of less are not worth the walk
TIMES = 12  # a backward; each costs the faults of the pages that are used again


def trim_while_training(net: nn.Module) -> int:
    """Trim the heap before each forward of a network, and in backward as its gradients come, `TIMES` times.

    Where the C library is not glibc, or the network small, nothing is done.

    Returns:
        How many places of the backward there are.
    """
    params = [p for p in net.parameters() if p.requires_grad and p.device.type == "cpu"]
    total, trim = sum(p.nbytes for p in params), _malloc_trim()
    if trim is None or total < WORTH_BYTES:
        return 0

    def trim_now(*_: object) -> None:
        trim(0)

    done, places = 0, 0
    for param in reversed(params):  # about the order of backward
        before, done = done, done + param.nbytes
        if done * TIMES // total > before * TIMES // total:
            param.register_post_accumulate_grad_hook(trim_now)
            places += 1
    net.register_forward_pre_hook(trim_now)
    return places


def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's function, if there is one; None on other systems."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no such function; no such library, as on Windows
        return None
