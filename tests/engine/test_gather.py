# SPDX-License-Identifier: Apache-2.0
"""Whole weights in a process without the memory for them: the messages to the others go on."""

from __future__ import annotations

import pytest
import torch

from diffnext.engine import gather
from diffnext.engine.backends.base import Backend
from diffnext.engine.optim import optimizer_factory
from tests.engine.runs import ALONE
from tests.engine.toy import toy_net

ROOM = 3  # tensors


@pytest.fixture
def sent(monkeypatch):
    """What the first of two processes sends to the other one, which has nothing of its own."""
    messages, failed, make = [], [], gather._whole

    def scarce(tensor, device, dtype):
        if len(messages) == ROOM and not failed:
            failed.append(tensor)
            raise torch.OutOfMemoryError("no room for a network")
        return make(tensor, device, dtype)

    monkeypatch.setattr(gather, "_whole", scarce)
    monkeypatch.setattr(gather.processes, "gather", lambda value: [value, {}])
    monkeypatch.setattr(gather.dist, "broadcast", lambda tensor, owner: messages.append(tensor))
    return messages


def backend_of(net: torch.nn.Module) -> Backend:
    backend = Backend(ALONE, precision="float32")
    make = optimizer_factory("adamw", lr=1e-2, weight_decay=0.0, beta2=0.95)
    backend.add("student", net, make)
    return backend


def test_a_process_without_room_sends_all_the_same(sent):
    net = toy_net()
    with pytest.raises(torch.OutOfMemoryError, match="no room for a network"):
        gather.whole_network(backend_of(net), "student", None)
    wanted = [value for _, value in sorted(net.state_dict().items())]
    assert len(sent) == len(wanted) > ROOM
    assert all(torch.equal(a, b) for a, b in zip(sent, wanted, strict=True))


@pytest.mark.parametrize("world", [1, 2])
def test_without_room_for_one_tensor_a_process_ends_if_others_wait_for_it(sent, monkeypatch, world):
    def fail(tensor, device, dtype):
        raise torch.OutOfMemoryError("no room for a tensor")

    monkeypatch.setattr(gather, "_whole", fail)
    monkeypatch.setattr(gather.processes, "world_size", lambda: world)
    with pytest.raises(RuntimeError, match="no room for a tensor") as caught:
        gather.whole_network(backend_of(toy_net()), "student", None)
    # which is a warning where samples are drawn
    assert isinstance(caught.value, torch.OutOfMemoryError) == (world == 1)
