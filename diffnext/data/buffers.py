# SPDX-License-Identifier: Apache-2.0
"""Memory for batches that is used again once nobody holds the batch.

Fresh memory costs the kernel a fault and a cleared page for every 4 KiB, several times what it
costs to fill it from the page cache.
"""

from __future__ import annotations

import math
import sys
import threading

import numpy as np
import torch
from torch import Tensor


class Buffers:
    """A pool of float16 arrays, as many as were held at a time, for batches of whichever size.

    An array is free when no tensor, nor any view of one, refers to it; the interpreter's own count
    of references tells. How high it is for a free array differs between interpreters, and is counted
    on one that is free for certain. So a consumer may keep a batch as long as it likes.

    Args:
        pinned: take page-locked memory, from which a GPU copies by itself. PyTorch pools it.
    """

    def __init__(self, *, pinned: bool = False) -> None:
        self.pinned = pinned
        self._free = _references([np.empty(0, np.float16)])[0]
        self._arrays: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A float16 tensor with any content."""
        if self.pinned:
            return torch.empty(shape, dtype=torch.float16, pin_memory=True)
        count = math.prod(shape)
        with self._lock:
            return torch.from_numpy(self._unheld(count)[:count].reshape(shape))

    def _unheld(self, count: int) -> np.ndarray:
        """The smallest free array of `count` numbers or more; a new one in place of one too small."""
        held = _references(self._arrays)
        free = [place for place, number in enumerate(held) if number == self._free]
        free.sort(key=lambda place: self._arrays[place].size)
        for place in free:
            if self._arrays[place].size >= count:
                return self._arrays[place]
        if free:
            del self._arrays[free[0]]
        self._arrays.append(np.empty(count, np.float16))
        return self._arrays[-1]


def _references(arrays: list[np.ndarray]) -> list[int]:
    """References to each array: those of this function and of the list, and any others."""
    return [sys.getrefcount(array) for array in arrays]
