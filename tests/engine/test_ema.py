# SPDX-License-Identifier: Apache-2.0
"""The running average against its formula."""

import pytest
import torch

from diffnext.engine.ema import EMA
from tests.engine.runs import toy_run


def test_the_average_follows_its_formula_in_float32():
    weights = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[4.0]], dtype=torch.bfloat16)}
    ema = EMA(weights, decay=0.9, device="cpu")
    weights["a"] += 10  # the average is a copy
    for value in (3.0, 5.0):
        ema.update(
            {"b": torch.tensor([[value]], dtype=torch.bfloat16), "a": torch.full((2,), value)}
        )
    average = ema.tensors()
    expected = torch.tensor([1.0, 2.0]) * 0.81 + 3.0 * 0.09 + 5.0 * 0.1
    torch.testing.assert_close(average["a"], expected)
    torch.testing.assert_close(average["b"], torch.tensor([[4 * 0.81 + 0.27 + 0.5]]))
    assert average["b"].dtype == torch.float32


def test_updates_come_every_few_steps_and_at_the_end(tmp_path, monkeypatch):
    trainer = toy_run(tmp_path, max_steps=8)
    hook = trainer.hooks[1]
    steps = []
    monkeypatch.setattr(hook.ema, "update", lambda weights: steps.append(trainer.step))
    trainer.train()
    assert steps == [3, 6, 8]


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_lies_between_0_and_1(decay):
    with pytest.raises(ValueError, match=f"TRAIN.MODEL_EMA is {decay}"):
        EMA({}, decay=decay, device="cpu")
