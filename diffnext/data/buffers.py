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
    of references tells. So a consumer may keep a batch as long as it likes.

    Args:
        pinned: take page-locked memory, from which a GPU copies by itself. PyTorch pools it.
    """

    def __init__(self, *, pinned: bool = False) -> None:
        self.pinned = pinned
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> tuple[Tensor, list[memoryview]]:
        """A float16 tensor with any content, and the memory of each of its rows."""
        if self.pinned:
            tensor = torch.empty(shape, dtype=torch.float16, pin_memory=True)
            return tensor, _rows(tensor.numpy())
        with self._lock:
            block = self._unheld(shape)
            return torch.from_numpy(block.array), block.rows

    def _unheld(self, shape: tuple[int, ...]) -> _Block:
        """A free block that looks as `shape`, as it does already in most cases."""
        for block in self._blocks:
            if block.array.shape == shape and block.is_free():
                return block
        block = self._large_enough(math.prod(shape))
        block.look_as(shape)
        return block

    def _large_enough(self, count: int) -> _Block:
        """The smallest free block of `count` numbers or more; a new one in place of one too small."""
        free = sorted((block for block in self._blocks if block.is_free()), key=_size)
        for block in free:
            if block.memory.size >= count:
                return block
        if free:
            self._blocks.remove(free[0])
        self._blocks.append(_Block(count))
        return self._blocks[-1]


class _Block:
    """Memory, and what is made of it for each batch of one shape as long as no other is asked for.

    How high the count of references to a free array is differs between interpreters; it is counted
    when the array is free for certain.
    """

    def __init__(self, count: int) -> None:
        self.memory = np.empty(count, np.float16)
        self.look_as((1, count))

    def look_as(self, shape: tuple[int, ...]) -> None:
        self.array = self.memory[: math.prod(shape)].reshape(shape)
        self.rows = _rows(self.array)
        self._free = self._references()

    def is_free(self) -> bool:
        return self._references() == self._free

    def _references(self) -> int:
        return sys.getrefcount(self.array)


def _size(block: _Block) -> int:
    return block.memory.size


def _rows(array: np.ndarray) -> list[memoryview]:
    """The bytes of each row."""
    whole = memoryview(array).cast("B")
    size = len(whole) // len(array)
    return [whole[start : start + size] for start in range(0, len(whole), size)]
