# SPDX-License-Identifier: Apache-2.0
"""The share of weights that moved, against a comparison of all of them."""

import pytest
import torch

from diffnext.engine.hooks.moved import PROBES, MovedHook
from diffnext.utils.metrics import Metrics, read_rows
from tests.engine.runs import toy_run


def test_all_weights_of_a_healthy_run_move_and_rows_say_so(tmp_path):
    trainer = toy_run(tmp_path)
    trainer.hooks.insert(0, MovedHook(every=4))
    trainer.train()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row.get("moved") for row in rows] == [None] * 3 + [1.0] + [None] * 3 + [1.0]


def test_skipped_steps_move_nothing(tmp_path):
    trainer = toy_run(tmp_path, bad=range(100), max_steps=2)
    trainer.hooks.insert(0, MovedHook(every=1))
    trainer.train()
    assert [row["moved"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0.0, 0.0]


def test_the_share_is_that_of_the_weights_which_rounding_spares(tmp_path):
    trainer = toy_run(tmp_path, max_steps=1)
    hook = MovedHook(every=1)
    learning = trainer.backend.learners["student"].named_learning()
    with torch.no_grad():
        for weight in learning.values():
            weight.fill_(0.5)
    hook.before_train(trainer)
    before = {name: weight.clone() for name, weight in learning.items()}
    with torch.no_grad():
        for i, weight in enumerate(learning.values()):
            weight += 1e-12 if i % 3 else 1.0  # the smaller is nothing next to 0.5
    trainer.step = 1
    metrics = Metrics()
    hook.after_step(trainer, metrics)
    probed = [min(PROBES, weight.numel()) for weight in learning.values()]
    moved = [
        n for n, (k, w) in zip(probed, learning.items(), strict=True) if (w != before[k]).any()
    ]
    assert 0 < metrics.values["moved"] < 1
    assert metrics.values["moved"].item() == pytest.approx(sum(moved) / sum(probed))
