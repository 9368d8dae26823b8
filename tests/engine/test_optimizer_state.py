# SPDX-License-Identifier: Apache-2.0
"""Optimizer state comes back from disk whatever an optimizer keeps: the next steps are the same."""

import pytest
import torch

from diffnext.engine.backends.base import Backend
from diffnext.engine.optim import optimizer_factory
from diffnext.engine.tensors import SavedTensors, save_tensors
from tests.engine.runs import ALONE
from tests.engine.toy import WIDTH, ToyNet

DEPTH = 3  # so that weights are large enough for states of 8 bits


def learner(name, seed):
    torch.manual_seed(seed)
    backend = Backend(ALONE, precision="float32")
    net = ToyNet(depth=DEPTH, width=2 * WIDTH)
    net.blocks[1].requires_grad_(False)
    backend.add("student", net, optimizer_factory(name, lr=1e-2, weight_decay=0.02, beta2=0.95))
    return backend


def step(backend, number):
    net = backend.learners["student"].net
    x = torch.randn(4, 2 * WIDTH, generator=torch.Generator().manual_seed(number))
    for block in list(net.blocks)[: 2 if number < 9 else DEPTH]:  # the last one is late
        x = x + block(x)
    backend.backward("student", net.head(x).square().mean())
    backend.step("student", lr=1e-2 / number, max_norm=1.0)


NAMES = ["AdamW", "Adam", "NAdam", "RAdam", "Adagrad", "Adafactor", "RMSprop", "Rprop", "ASGD"]


@pytest.mark.parametrize("name", [*NAMES, "SGD", "torch.optim:Adamax", "muon", "AdamW8bit"])
def test_a_run_goes_on_as_if_there_had_been_no_break(name, tmp_path):
    if name.endswith("8bit"):
        pytest.importorskip("bitsandbytes")
    whole, resumed = learner(name, 0), learner(name, 1)
    for number in (1, 2):
        step(whole, number)
    tensors = {f"net.{key}": value for key, value in whole.weights("student").items()}
    tensors |= {f"opt.{key}": value for key, value in whole.optimizer_state("student").items()}
    save_tensors(tensors, tmp_path)
    saved = SavedTensors(tmp_path)
    resumed.load("student", saved.below("net."), saved.below("opt."))
    for number in (3, 9):
        step(whole, number)
        step(resumed, number)
    for key, value in whole.weights("student").items():
        assert torch.equal(value, resumed.weights("student")[key]), key
    again = resumed.optimizer_state("student")
    assert {k: v.dtype for k, v in again.items()} == {
        k: v.dtype for k, v in whole.optimizer_state("student").items()
    }
    for key, value in whole.optimizer_state("student").items():
        assert torch.equal(value, again[key]), key
