# SPDX-License-Identifier: Apache-2.0
"""The loop against a hand-written one, and what it does with accumulation and bad numbers."""

import json
import math

import pytest
import torch

from diffnext.distributed import env as processes
from diffnext.utils.metrics import read_rows
from diffnext.utils.seeding import Draws
from tests.engine.runs import Interrupted, toy_run
from tests.engine.toy import ToyPipeline, make_batch, toy_net


def losses(folder):
    return [row["loss"] for row in read_rows(folder / "metrics.jsonl")]


def plain_loop(steps: int, max_norm: float) -> tuple[list[float], dict]:
    """What the trainer does, without it: torch's own clipping and AdamW."""
    pipe = ToyPipeline(toy_net())
    net = pipe.configure()
    norms = [p for block in net.blocks for p in block[1].parameters()]
    others = [p for block in net.blocks for p in block[0].parameters()] + [*net.head.parameters()]
    groups = [{"params": others, "weight_decay": 0.02}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), fused=True)
    found = []
    for step in range(steps):
        batch = make_batch(range(4 * step, 4 * step + 4))
        out = pipe.loss(net, pipe.prepare(batch, draws=Draws(3, step, batch.keys())))
        out.loss.backward()
        if max_norm:
            torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        share = 0.5 * (1 + math.cos(math.pi * (step - 2) / (steps - 2)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * ((step + 1) / 2 if step < 2 else share)
        optimizer.step()
        optimizer.zero_grad()
        found.append(out.loss.item())
    return found, net.state_dict()


# without clipping the arithmetic is the same; clipped gradients are rounded elsewhere, and Adam's
# first steps, which only see signs, magnify that
@pytest.mark.parametrize(("max_norm", "tolerance"), [(0.0, 0.0), (1.0, 3e-4)])
def test_the_trainer_equals_a_plain_loop(tmp_path, max_norm, tolerance):
    trainer = toy_run(tmp_path, max_norm=max_norm)
    trainer.train()
    expected, weights = plain_loop(8, max_norm)
    assert losses(tmp_path) == pytest.approx(expected, rel=tolerance, abs=0)
    for name, value in trainer.backend.weights("student").items():
        torch.testing.assert_close(value, weights[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("optimizer", ["AdamW", "torch.optim:SGD", "RAdam"])
def test_accumulated_micro_batches_equal_one_batch(tmp_path, optimizer):
    for accum in (1, 2):
        folder = tmp_path / str(accum)
        folder.mkdir()
        toy_run(folder, accum=accum, batch_size=4 // accum, optimizer=optimizer).train()
    # float32 sums in another order, through 8 steps
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)


def test_rows_carry_what_a_curve_needs(tmp_path):
    toy_run(tmp_path, max_norm=3.0).train()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    wanted = (
        "step loss loss_toy lr grad_norm step_time samples_per_s data_wait data_read data_decode"
    )
    wanted += " data_transfer memory skipped clipped"
    assert set(wanted.split()) == set(rows[0])
    assert rows[1]["lr"] == 1e-2  # host numbers are not rounded to float32
    assert rows[0]["loss"] == rows[0]["loss_toy"]
    clipped = [float(row["grad_norm"] > 3.0) for row in rows]
    assert [row["clipped"] for row in rows] == clipped and 0 < sum(clipped) < 8


@pytest.mark.parametrize(
    ("stop_at", "error"), [(2, Interrupted), (None, ConnectionError)], ids=["between", "in"]
)
def test_a_run_that_breaks_off_writes_its_rows_without_the_others(
    tmp_path, monkeypatch, stop_at, error
):
    def gone(values):
        raise ConnectionError("the other process is gone")

    toy_run(tmp_path, max_steps=2).train()
    whole = losses(tmp_path)
    (tmp_path / "cut").mkdir()
    trainer = toy_run(tmp_path / "cut", stop_at=stop_at)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    monkeypatch.setattr(processes, "mean_over_ranks", gone)
    with pytest.raises(error):
        trainer.train()  # rows are exchanged every three steps
    assert losses(tmp_path / "cut")[:2] == whole
    assert len(losses(tmp_path / "cut")) == (stop_at or 3)


@pytest.mark.parametrize("optimizer", ["adamw", "RAdam"])
def test_a_step_with_nan_leaves_everything_alone(tmp_path, optimizer):
    clean, bad = (
        toy_run(tmp_path, optimizer=optimizer),
        toy_run(tmp_path, optimizer=optimizer, bad=[9]),
    )
    for trainer in (clean, bad):
        trainer.train_step()
        trainer.train_step()
    before = {k: v.clone() for k, v in bad.backend.weights("student").items()}
    state = {k: v.clone() for k, v in bad.backend.optimizer_state("student").items()}
    metrics = bad.train_step()  # holds samples 8 to 11
    assert metrics.values["skipped"] == 1
    assert not metrics.values["grad_norm"].isfinite()
    for name, value in bad.backend.weights("student").items():
        assert torch.equal(value, before[name])
    for name, value in bad.backend.optimizer_state("student").items():
        assert torch.equal(value, state[name])
    assert bad.train_step().values["skipped"] == 0


def test_skipped_steps_are_written(tmp_path):
    trainer = toy_run(tmp_path, bad=[9, 17])
    trainer.train()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if row["skipped"]] == [3, 5]
    assert rows[2]["loss"] is None and rows[2]["grad_norm"] is None
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_keeps_float32_masters_and_follows_float32(tmp_path, precision):
    for name in ("float32", precision):
        (tmp_path / name).mkdir()
        trainer = toy_run(tmp_path / name, precision=name)
        trainer.train()
    assert {w.dtype for w in trainer.backend.weights("student").values()} == {torch.float32}
    # 8 bits of mantissa in each of three layers
    assert losses(tmp_path / precision) == pytest.approx(losses(tmp_path / "float32"), rel=0.02)


def test_parameters_without_gradient_are_named(tmp_path, monkeypatch, caplog):
    trainer = toy_run(tmp_path)
    monkeypatch.setattr(trainer.backend.learners["student"].net.blocks[1], "forward", torch.sin)
    with caplog.at_level("WARNING", logger="diffnext"):
        trainer.train_step()
        trainer.train_step()
    named = [r.message for r in caplog.records if "no gradient" in r.message]
    assert len(named) == 1
    assert "blocks.1.0.weight, blocks.1.0.bias" in named[0]


@pytest.mark.usefixtures("no_waiting_for_disks")
def test_sgd_steps_parts_of_weights_as_whole_ones(tmp_path):
    """Torch's fused kernel for it knows no parts."""
    for backend in ("single", "fsdp"):
        (tmp_path / backend).mkdir()
        trainer = toy_run(tmp_path / backend, max_steps=2, backend=backend, optimizer="SGD")
        trainer.train()
    assert losses(tmp_path / "fsdp") == pytest.approx(losses(tmp_path / "single"))


def test_ddp_needs_all_gradients_unless_it_searches(tmp_path, monkeypatch):
    """Without the search its messages of this step are not complete: replicas would drift apart."""
    for search in (True, False):
        trainer = toy_run(tmp_path, backend="ddp", options={"find_unused": search})
        monkeypatch.setattr(trainer.backend.learners["student"].net.head, "forward", torch.sin)
        if search:
            trainer.train_step()
            trainer.train_step()
        else:
            with pytest.raises(ValueError, match=r"2 got none, such as 'head.weight': freeze"):
                trainer.train_step()
