# SPDX-License-Identifier: Apache-2.0
"""The running averages against their formula."""

import threading

import pytest
import torch

from diffnext.engine.ema import EMA, Staging
from tests.children import LONG_S
from tests.engine.runs import toy_run


@pytest.mark.parametrize("staged", [False, True])
def test_averages_follow_their_formula_in_float32(staged):
    weights = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[4.0]], dtype=torch.bfloat16)}
    ema = EMA(weights, decays=[0.9, 0.5], device="cpu")
    if staged:  # as where the network is on a GPU
        ema._staging = Staging(list(weights.values()))
    weights["a"] += 10  # the average is a copy
    for value in (3.0, 5.0):
        ema.update(
            {"b": torch.tensor([[value]], dtype=torch.bfloat16), "a": torch.full((2,), value)}
        )
    for decay in (0.9, 0.5):
        average, rest = ema.tensors(decay), decay * (1 - decay) * 3.0 + (1 - decay) * 5.0
        torch.testing.assert_close(average["a"], torch.tensor([1.0, 2.0]) * decay**2 + rest)
        torch.testing.assert_close(average["b"], torch.tensor([[4 * decay**2 + rest]]))
        assert average["b"].dtype == torch.float32


def test_the_first_average_has_the_plain_name():
    ema = EMA({"a": torch.ones(1)}, decays=[0.9, 0.5, 0.9999999], device="cpu")
    assert list(ema.parts()) == ["ema", "ema_0.5", "ema_0.9999999"]
    assert ema.parts()["ema_0.5"]["a"] is ema.tensors(0.5)["a"]
    assert ema.tensors()["a"] is ema.tensors(0.9)["a"]


def test_an_update_in_the_background_is_waited_for_before_the_average_is_read():
    ema = EMA({"a": torch.zeros(1)}, decays=[0.5], device="cpu")
    ema._staging = Staging([torch.zeros(1)])
    go, move, seen = threading.Event(), ema._move, []

    def slow(current):
        seen.append(go.wait(LONG_S))
        move(current)

    ema._move = slow
    weight = torch.ones(1)
    ema.update({"a": weight})
    weight += 100  # the next step
    go.set()
    assert ema.tensors()["a"].item() == 0.5
    assert seen == [True]


def test_an_error_in_the_background_is_not_lost():
    ema = EMA({"a": torch.zeros(1)}, decays=[0.5], device="cpu")
    ema._staging = Staging([torch.zeros(1)])
    ema._averages.clear()
    ema.update({"a": torch.ones(1)})
    with pytest.raises(ValueError, match="zip"):
        ema.wait()


def test_updates_come_every_few_steps_and_at_the_end(tmp_path, monkeypatch):
    trainer = toy_run(tmp_path, max_steps=8)
    hook = trainer.hooks[1]
    steps = []
    monkeypatch.setattr(hook.ema, "update", lambda weights: steps.append(trainer.step))
    trainer.train()
    assert steps == [3, 6, 8]


def test_looking_at_the_average_does_not_change_the_run(tmp_path):
    plain, looked = toy_run(tmp_path), toy_run(tmp_path)
    for trainer in (plain, looked):
        trainer.train_step()
        trainer.hooks[1].ema.update(trainer.backend.weights("student", learning=True))
        trainer.train_step()
    weight = looked.backend.weights("student")["head.weight"]
    own = weight.clone()
    with looked.hooks[1].ema.applied(looked.backend, "student"):
        assert torch.equal(weight, looked.hooks[1].ema.tensors()["head.weight"])
        assert not torch.equal(weight, own)
    assert torch.equal(weight, own)
    for trainer in (plain, looked):
        trainer.train_step()
    assert torch.equal(weight, plain.backend.weights("student")["head.weight"])


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_lies_between_0_and_1(decay):
    with pytest.raises(ValueError, match=f"TRAIN.MODEL_EMA is {decay}"):
        EMA({}, decays=[decay], device="cpu")


def test_a_decay_comes_once():
    with pytest.raises(ValueError, match=r"have a decay twice: \[0.9, 0.9\]"):
        EMA({}, decays=[0.9, 0.9], device="cpu")
