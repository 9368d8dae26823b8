# SPDX-License-Identifier: Apache-2.0
"""Optimizer state comes back from disk whatever an optimizer keeps: the next steps are the same."""

import sys
import types

import pytest
import torch

from diffnext.engine.backends.base import Backend
from diffnext.engine.optim import optimizer_factory
from diffnext.engine.tensors import SavedTensors, save_tensors
from tests.engine.runs import ALONE
from tests.engine.toy import WIDTH, ToyNet

DEPTH = 3  # so that weights are large enough for states of 8 bits


class Momentum8bit(torch.optim.Optimizer):
    """Stands for bitsandbytes: keeps bytes, a table of another shape, and a plain number."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.95)):
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["step"] = 0
                    state["signs"] = torch.zeros_like(param, dtype=torch.uint8)
                    state["largest"] = torch.zeros(3)
                assert type(state["step"]) is int
                state["step"] += 1
                state["signs"] += (param.grad > 0).to(torch.uint8)
                state["largest"] += param.grad.abs().max()
                share = state["signs"].float() / state["step"] - 0.5
                param -= group["lr"] * share * state["largest"][0]


@pytest.fixture
def stand_in(monkeypatch):
    package, module = types.ModuleType("bitsandbytes"), types.ModuleType("bitsandbytes.optim")
    package.optim, module.Momentum8bit = module, Momentum8bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)


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


@pytest.mark.parametrize("name", [*NAMES, "SGD", "torch.optim:Adamax", "muon"])
def test_a_run_goes_on_as_if_there_had_been_no_break(name, tmp_path):
    check_going_on(name, tmp_path)


def test_a_run_with_states_of_8_bits_goes_on_as_well(bitsandbytes, tmp_path):
    check_going_on("AdamW8bit", tmp_path)


def test_bytes_and_numbers_come_back_as_such(stand_in, tmp_path):
    check_going_on("momentum8bit", tmp_path)


def check_going_on(name, tmp_path):
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
