# SPDX-License-Identifier: Apache-2.0
"""Work beside the steps is done on the GPU of its process."""

import threading

import pytest
import torch

from diffnext.engine import ema
from diffnext.engine.checkpoint import CheckpointManager
from diffnext.utils.threads import one_thread


@pytest.fixture
def chosen(monkeypatch):
    """The devices that threads have chosen, on a machine that has some."""
    found = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)

    def choose(device):
        found.append((threading.current_thread().name, device))

    monkeypatch.setattr(torch.cuda, "set_device", choose)
    return found


def test_a_thread_begins_on_the_gpu_of_who_asked(chosen):
    assert one_thread("saves").submit(lambda: 7).result() == 7
    assert chosen == [("saves_0", 3)]


def test_averages_and_checkpoints_have_such_threads(chosen, tmp_path):
    staging = ema.Staging([torch.ones(1)])
    staging.copy([torch.ones(1)], then=lambda copies: None).result()
    manager = CheckpointManager(tmp_path, prefix="toy", content=None, about={})
    manager._pool.submit(lambda: None).result()
    assert chosen == [("average_0", 3), ("checkpoint_0", 3)]
