# SPDX-License-Identifier: Apache-2.0
"""The estimate of memory against bytes that were counted."""

import pytest
import torch

from diffnext.engine import memory
from diffnext.engine.memory import Need, estimate, shortage, state_per_weight
from diffnext.engine.optim import optimizer_factory
from tests.engine.runs import toy_run
from tests.engine.toy import ToyNet


def factory(name="AdamW"):
    return optimizer_factory(name, lr=1.0, weight_decay=0.0, beta2=0.9)


def size(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t.numel() > 1)


def test_one_process_against_a_real_run(tmp_path):
    trainer = toy_run(tmp_path)
    trainer.train_step()
    learner = trainer.backend.learners["student"]
    with torch.device("meta"):
        net = ToyNet()
    net.scale.requires_grad_(False)
    need = estimate(net, factory(), backend="single", world=1, precision="bfloat16")
    params = list(learner.net.parameters())
    assert need.weights == size(params)
    assert need.gradients == size(p for p in params if p.requires_grad)
    assert need.optimizer == size(trainer.backend.optimizer_state("student").values())
    assert need.average == size(trainer.hooks[1].ema.tensors().values())
    assert need.total == sum((need.weights, need.gradients, need.optimizer, need.average))


@pytest.mark.parametrize(
    ("gpu", "on_host", "processes", "mib", "short"),
    [
        (True, False, 8, 100, True),
        (True, False, 8, 101, False),
        (True, True, 8, 61, False),  # without the average
        (False, True, 2, 200, True),  # they share the machine
        (False, True, 2, 201, False),
        (False, False, 1, 0, False),  # not known
    ],
)
def test_what_a_device_cannot_hold(monkeypatch, gpu, on_host, processes, mib, short):
    need = Need(*(part * 2**20 for part in (10, 20, 30, 40)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(memory, "capacity_bytes", lambda: mib * 2**20)
    told = shortage(need, average_on_host=on_host, processes=processes)
    assert bool(told) == short
    assert not short or f"has {mib:.1f} MiB, too few for {mib:.1f} MiB" in told


def test_the_machine_tells_its_memory():
    assert memory.capacity_bytes() > 2**28


@pytest.mark.parametrize(("name", "numbers"), [("AdamW", 2), ("SGD", 0), ("Adagrad", 1)])
def test_state_of_an_optimizer(name, numbers):
    assert state_per_weight(factory(name)) == numbers


@pytest.mark.parametrize(
    ("backend", "stage", "bytes_per_weight"),
    [
        ("ddp", 0, 4 + 4 + 8),
        ("fsdp", 0, (4 + 4 + 8) / 4),
        ("deepspeed", 1, 2 + 2 + 12 / 4),  # bfloat16 network and gradients, float32 rest split
        ("deepspeed", 2, 2 + 2 / 4 + 12 / 4),
        ("deepspeed", 3, 16 / 4),
    ],
)
def test_what_is_split_over_four_processes(backend, stage, bytes_per_weight):
    net = torch.nn.Linear(64, 64, bias=False)
    options = {"world": 4, "precision": "bfloat16", "stage": stage, "average": False}
    need = estimate(net, factory(), backend=backend, **options)
    assert need.total == bytes_per_weight * 64 * 64
