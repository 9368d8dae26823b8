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


def test_a_process_without_room_sends_all_the_same(sent):
    backend = Backend(ALONE, precision="float32")
    make = optimizer_factory("adamw", lr=1e-2, weight_decay=0.0, beta2=0.95)
    net = toy_net()
    backend.add("student", net, make)
    with pytest.raises(torch.OutOfMemoryError, match="no room for a network"):
        gather.whole_network(backend, "student", None)
    wanted = [value for _, value in sorted(net.state_dict().items())]
    assert len(sent) == len(wanted) > ROOM
    assert all(torch.equal(a, b) for a, b in zip(sent, wanted, strict=True))
