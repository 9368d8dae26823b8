# SPDX-License-Identifier: Apache-2.0
"""Steps that are not finite: who was in them, and when they are too many."""

import json
import math

import pytest
import torch

from diffnext.engine.hooks.guard import HALVINGS, GuardHook, NonFiniteError
from diffnext.utils.seeding import mix
from tests.engine.runs import toy_run
from tests.engine.toy import make_batch


def guarded(folder, *, limit=0, every=3, **settings):
    """A toy run with a guard behind its log, and the guard."""
    trainer = toy_run(folder, **settings)
    guard = GuardHook(folder / "bad", every=every, limit=limit, describe="record {}".format)
    trainer.hooks.insert(1, guard)
    return trainer, guard


def test_a_bad_step_names_its_samples_their_losses_and_their_noise(tmp_path, monkeypatch):
    trainer, guard = guarded(tmp_path, bad=[9, 17], accum=2, batch_size=2)

    def levels(shape, draws):
        assert tuple(shape) == tuple(make_batch(range(2)).moments[:, :2].shape)
        return draws.stream("t").rand(3)

    monkeypatch.setattr(trainer.pipe, "noise_levels", levels)
    trainer.train()
    assert guard.skipped == 2
    assert sorted(p.name for p in (tmp_path / "bad").iterdir()) == [
        "step_3_rank_0.json",
        "step_5_rank_0.json",
    ]
    told = json.loads((tmp_path / "bad/step_3_rank_0.json").read_text())
    assert (told["step"], told["rank"], told["grad_norm"]) == (3, 0, "nan")
    rows = told["samples"]
    assert [row["index"] for row in rows] == [8, 9, 10, 11]
    assert [row["call"] for row in rows] == [0, 0, 1, 1]
    assert [row["loss"] == "nan" for row in rows] == [False, True, False, False]
    assert rows[1]["record"] == "record 9"
    drawn = torch.rand(3, generator=_generator(trainer.seed, rows[2]))
    assert rows[2]["noise"]["mean"] == pytest.approx(drawn.mean().item())
    assert rows[2]["noise"]["max"] == drawn.max()


def _generator(seed, row):
    key = mix(seed, "/t", row["epoch"], row["index"])
    return torch.Generator().manual_seed(key)


def test_a_disk_that_takes_no_file_ends_no_run(tmp_path, caplog):
    trainer, guard = guarded(tmp_path, bad=[9])
    (tmp_path / "bad").write_text("no folder")
    trainer.train()
    assert trainer.step == trainer.max_steps and guard.skipped == 1
    assert "step_3_rank_0.json could not be written" in caplog.text


def test_healthy_steps_leave_no_file_and_are_read_seldom(tmp_path, monkeypatch):
    trainer, _ = guarded(tmp_path, every=4)
    reads, look = [], GuardHook._look
    monkeypatch.setattr(
        GuardHook, "_look", lambda self, t: (reads.append(t.step), look(self, t))[1]
    )
    trainer.train()
    assert reads == [4, 8]
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(("bad", "ends"), [([0, 4, 8, 12], True), ([0, 4, 12, 16], False)])
def test_too_many_in_a_row_end_the_run_with_what_to_do(tmp_path, bad, ends):
    trainer, guard = guarded(tmp_path, limit=4, bad=bad)
    if not ends:
        return trainer.train()
    with pytest.raises(NonFiniteError, match=r"in steps 1 to 4, .*bad names the samples") as error:
        trainer.train()
    for wanted in ("SOLVER.MAX_SKIPPED is 4", "--step 1", "SOLVER.BASE_LR", "TRAIN.RESUME"):
        assert wanted in str(error.value)
    assert guard.skipped == 4


def test_the_scale_search_of_float16_is_no_alarm(tmp_path):
    trainer, guard = guarded(tmp_path, limit=2, precision="float16", max_steps=6)
    trainer.backend.learners["student"].scaler.scale.fill_(2.0**60)
    trainer.train()
    assert guard.skipped == 6 and HALVINGS > 6
    assert not (tmp_path / "bad").exists()


def test_a_dead_float16_run_ends_too(tmp_path):
    trainer, _ = guarded(tmp_path, limit=2, precision="float16", max_steps=99, bad=range(400))
    with pytest.raises(NonFiniteError, match=f"in steps 1 to {HALVINGS},"):
        trainer.train()
    assert len(list((tmp_path / "bad").iterdir())) == 20


def test_an_infinite_loss_is_told_as_such(tmp_path, monkeypatch):
    trainer, _ = guarded(tmp_path, max_steps=1)
    loss = trainer.pipe.loss

    def overflowing(net, inputs):
        out = loss(net, inputs)
        return type(out)(out.loss * math.inf, {}, out.per_sample * math.inf)

    monkeypatch.setattr(trainer.pipe, "loss", overflowing)
    trainer.train()
    (told,) = (tmp_path / "bad").iterdir()
    assert {row["loss"] for row in json.loads(told.read_text())["samples"]} == {"inf"}
