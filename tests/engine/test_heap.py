# SPDX-License-Identifier: Apache-2.0
"""Memory that glibc keeps goes back to the system while training."""

import pytest
import torch
from torch import nn

from diffnext.engine import heap


@pytest.fixture
def trims(monkeypatch):
    """Calls of malloc_trim, as the number of gradients that were complete."""
    calls = []
    monkeypatch.setattr(heap, "TIMES", 4)
    monkeypatch.setattr(heap, "WORTH_BYTES", 0)
    monkeypatch.setattr(heap, "_malloc_trim", lambda: calls.append)
    return calls


def test_a_backward_is_cut_into_parts_of_equal_weight(trims):
    net = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(8)))
    assert heap.trim_while_training(net) == heap.TIMES
    complete = []
    for layer in net:
        layer.weight.register_post_accumulate_grad_hook(lambda p: complete.append(len(trims)))
    net(torch.ones(1, 16)).sum().backward()
    assert complete == [1, 2, 2, 3, 3, 4, 4, 5]  # one before forward, one after the last gradient


def test_each_step_trims(trims):
    net = nn.Linear(4, 4)
    places = heap.trim_while_training(net)
    for _ in range(3):
        net(torch.ones(1, 4)).sum().backward()
    assert trims == [0] * (3 * (1 + places))


def test_frozen_weights_are_no_places(trims):
    net = nn.Linear(4, 4).requires_grad_(False)
    assert heap.trim_while_training(net) == 0


def test_a_small_network_is_left_alone(monkeypatch):
    monkeypatch.setattr(heap, "_malloc_trim", lambda: pytest.fail)
    assert heap.trim_while_training(nn.Linear(4, 4)) == 0


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr(heap, "WORTH_BYTES", 0)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert heap.trim_while_training(nn.Linear(4, 4)) == 0
