# SPDX-License-Identifier: Apache-2.0
"""Memory is used again when nobody holds it, and never before."""

import sys

import pytest
import torch

from diffnext.data.buffers import Buffers

GETREFCOUNT = sys.getrefcount


@pytest.fixture(params=[-2, -1, 0, 1])
def interpreter(request, monkeypatch):
    """One that counts otherwise: newer ones borrow references that older ones count."""
    monkeypatch.setattr(sys, "getrefcount", lambda value: GETREFCOUNT(value) + request.param)


def test_what_nobody_holds_is_taken_again(interpreter):
    buffers = Buffers()
    first = buffers.take((2, 3))
    address = first.data_ptr()
    del first
    again = buffers.take((3, 2))
    assert again.data_ptr() == address
    assert again.shape == (3, 2) and again.dtype == torch.float16
    assert len(buffers._arrays) == 1


def test_what_is_held_is_left_alone(interpreter):
    """By the tensor itself, by a view of it, and by its array."""
    buffers = Buffers()
    held = [buffers.take((2, 3)), buffers.take((2, 3))[1:], buffers.take((2, 3)).numpy()]
    for number, part in enumerate(held):
        part[...] = number
    buffers.take((2, 3)).fill_(9)
    assert [float(part.flatten()[0]) for part in held] == [0, 1, 2]


def test_another_size_is_other_memory():
    buffers = Buffers()
    buffers.take((2, 3))
    assert buffers.take((2, 4)).shape == (2, 4)
    assert len(buffers._arrays) == 2
