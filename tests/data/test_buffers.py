# SPDX-License-Identifier: Apache-2.0
"""Memory is used again when nobody holds it, and never before."""

import sys

import pytest
import torch

from diffnext.data.buffers import Buffers

GETREFCOUNT = sys.getrefcount


def take(buffers, shape):
    return buffers.take(shape)[0]


@pytest.fixture(params=[-2, -1, 0, 1])
def interpreter(request, monkeypatch):
    """One that counts otherwise: newer ones borrow references that older ones count."""
    monkeypatch.setattr(sys, "getrefcount", lambda value: GETREFCOUNT(value) + request.param)


def test_what_nobody_holds_is_taken_again(interpreter):
    buffers = Buffers()
    first = take(buffers, (2, 3))
    address = first.data_ptr()
    del first
    again = take(buffers, (3, 2))
    assert again.data_ptr() == address
    assert again.shape == (3, 2) and again.dtype == torch.float16
    assert len(buffers._blocks) == 1


def test_what_is_held_is_left_alone(interpreter):
    """By the tensor itself, by a view of it, and by its array."""
    buffers = Buffers()
    held = [take(buffers, (2, 3)), take(buffers, (2, 3))[1:], take(buffers, (2, 3)).numpy()]
    for number, part in enumerate(held):
        part[...] = number
    take(buffers, (2, 3)).fill_(9)
    assert [float(part.flatten()[0]) for part in held] == [0, 1, 2]


def test_sizes_share_memory_and_never_what_is_held(interpreter):
    buffers = Buffers()
    sizes = [7, 3, 9, 1, 8, 9, 2, 6] * 4
    held = []
    for number, size in enumerate(sizes):
        held = [*held[-2:], take(buffers, (size,)).fill_(number)]
        assert [int(part[0]) for part in held] == list(range(number + 1))[-3:]
        assert all(bool((part == part[0]).all()) for part in held)
    assert len(buffers._blocks) == 4


def test_the_smallest_that_is_large_enough_is_taken():
    buffers = Buffers()
    held = [take(buffers, (size,)) for size in (8, 2, 4)]
    address = held[2].data_ptr()
    held.clear()
    assert take(buffers, (3,)).data_ptr() == address
