# SPDX-License-Identifier: Apache-2.0
"""Evaluations are rows of their own, leave the run alone, and say which checkpoint is best."""

import json
import logging

import pytest
import torch
from torch import nn

from diffnext.engine.build.options import check_grid
from diffnext.engine.hooks.evaluate import undisturbed
from diffnext.utils.metrics import read_rows
from tests.engine.runs import Interrupted, toy_run
from tests.engine.toy import ToyHeldOut, ToyPipeline


def test_rows_are_the_means_over_the_held_out_samples(tmp_path):
    trainer = toy_run(tmp_path, max_steps=4, evaluate=2)
    weights, seen = [], trainer.pipe.evaluate

    def spy(net, batch, **options):
        weights.append(net.head.weight.detach().clone())
        losses = seen(net, batch, **options)["loss"]
        assert not net.training
        return {"loss": losses, "loss_index": batch.index.float()}

    trainer.pipe.evaluate = spy
    trainer.train()
    rows = read_rows(tmp_path / "eval.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4]
    wanted = [
        f"{place}/{name}" for place in ("eval", "eval_ema") for name in ("loss", "loss_index")
    ]
    assert list(rows[0]) == ["step", *wanted]
    assert [row["eval/loss_index"] for row in rows] == [10**6 + 4] * 3  # of 9 samples from 10**6 on
    assert rows[0]["eval/loss"] == rows[0]["eval_ema/loss"] > rows[2]["eval/loss"]
    assert rows[2]["eval_ema/loss"] != rows[2]["eval/loss"]
    assert torch.equal(weights[-4], trainer.pipe.net.head.weight)  # three batches, then the average
    assert not torch.equal(weights[-1], trainer.pipe.net.head.weight)
    assert trainer.pipe.net.training


def test_a_resumed_run_goes_on_with_its_rows(tmp_path):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    toy_run(tmp_path / "whole", evaluate=2).train()
    with pytest.raises(Interrupted):
        toy_run(tmp_path / "cut", evaluate=2, stop_at=6).train()
    toy_run(tmp_path / "cut", evaluate=2).train()  # from step 4
    whole, cut = (read_rows(tmp_path / name / "eval.jsonl") for name in ("whole", "cut"))
    assert cut == whole and len(whole) == 5


def test_the_line_tells_means_and_not_a_number(tmp_path, caplog):
    trainer = toy_run(tmp_path, max_steps=1, evaluate=1)
    trainer.pipe.evaluate = lambda net, batch, **options: {
        "loss": torch.full((len(batch),), torch.nan)
    }
    with caplog.at_level(logging.INFO, "diffnext"):
        trainer.train()
    assert "eval step 1  eval/loss nan  eval_ema/loss nan" in caplog.text
    assert read_rows(tmp_path / "eval.jsonl")[1]["eval/loss"] is None


def test_the_best_checkpoint_is_pointed_at_and_stays(tmp_path):
    losses = {0: 9.0, 1: 3.0, 2: 1.0, 3: 2.0, 4: 5.0, 5: 4.0}
    trainer = toy_run(tmp_path, max_steps=5, evaluate=1, snapshot_every=1, keep=1)
    trainer.pipe.evaluate = lambda net, batch, **options: {
        "loss": torch.full((len(batch),), losses[trainer.step])
    }
    trainer.train()
    best, latest = (pointed_at(tmp_path / name) for name in ("best.json", "latest.json"))
    assert best.pop("measured")
    wanted = {"metric": "eval_ema/loss", "mode": "min", "value": 1.0}
    assert best == wanted | {"step": 2, "checkpoint": "checkpoints/toy_iter_2"}
    assert latest == {"step": 5, "checkpoint": "checkpoints/toy_iter_5"}
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"toy_iter_2", "toy_iter_5"}
    assert {path.name for path in (tmp_path / "ema_checkpoints").iterdir()} == kept


def pointed_at(file):
    found = json.loads(file.read_text())
    assert (file.parent / found["checkpoint"] / "complete.json").exists()
    return found


def test_only_losses_on_the_same_records_are_compared(tmp_path, monkeypatch):
    losses = {0: 9.0, 1: 1.0, 2: 2.0, 3: 5.0, 4: 4.0}
    monkeypatch.setattr(
        ToyPipeline,
        "evaluate",
        lambda pipe, net, batch, **options: {
            "loss": torch.full((len(batch),), losses[trainer.step])
        },
    )
    trainer = toy_run(tmp_path, max_steps=2, evaluate=1, snapshot_every=1)
    trainer.train()
    assert pointed_at(tmp_path / "best.json")["step"] == 1
    monkeypatch.setattr(ToyHeldOut, "digest", "of other records, on which all losses are higher")
    trainer = toy_run(tmp_path, max_steps=4, evaluate=1, snapshot_every=1)
    trainer.train()
    assert pointed_at(tmp_path / "best.json")["step"] == 4


def test_without_evaluation_nothing_is_best(tmp_path):
    toy_run(tmp_path, max_steps=2).train()
    assert not (tmp_path / "best.json").exists()
    assert pointed_at(tmp_path / "latest.json")["step"] == 2


def test_modes_and_random_numbers_come_back():
    net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    with pytest.raises(ZeroDivisionError), undisturbed(net, torch.device("cpu")):
        assert not net[0].training
        torch.rand(5)
        raise ZeroDivisionError
    assert [module.training for module in net.modules()] == [True, True, False]
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    ("timesteps", "masks", "what"),
    [
        ([], [1.0], "EVAL.TIMESTEPS is .., numbers from 0 to 1000"),
        ([1001], [1.0], r"EVAL.TIMESTEPS is \[1001\]"),
        ([100, 100], [1.0], "none of them twice"),
        ([100], [0.0], "EVAL.MASK_RATIOS is"),
        ([100], ["half"], "EVAL.MASK_RATIOS is"),
    ],
)
def test_a_grid_that_there_is_not_is_refused(timesteps, masks, what):
    with pytest.raises(ValueError, match=what.replace("..,", r"\[\];")):
        check_grid(timesteps, masks)
