# SPDX-License-Identifier: Apache-2.0
"""A method of several networks, against a loop written out by hand."""

import pytest
import torch

from diffnext.engine.lr_scheduler import make_schedule
from diffnext.engine.optim import optimizer_factory
from diffnext.methods.base import Round
from diffnext.methods.finetune import Finetune
from diffnext.utils.metrics import read_rows
from tests.engine.duel import Duel, duel_loss
from tests.engine.runs import Interrupted, toy_run
from tests.engine.toy import make_batch, toy_net

STEPS, BATCH, ACCUM = 4, 4, 2
pytestmark = pytest.mark.usefixtures("no_waiting_for_disks")


def plain_loop():
    """The duel with torch alone: networks and (loss of the student, of the critic) of each step."""
    names = ("teacher", "student", "critic")
    nets = {name: toy_net(seed).train() for seed, name in enumerate(names)}
    make = optimizer_factory("adamw", lr=1e-2, weight_decay=0.02, beta2=0.95)
    optimizers = {name: make(nets[name]) for name in names[1:]}
    rate = make_schedule("cosine_decay", base_lr=1e-2, max_steps=STEPS, warm_up_steps=2)
    rows = []
    for step in range(STEPS):
        first = step * BATCH * ACCUM
        batches = [range(first + i * BATCH, first + (i + 1) * BATCH) for i in range(ACCUM)]
        inputs = [make_batch(b).moments.float().chunk(2, dim=1)[0].flatten(1) for b in batches]
        row = {}
        for name in ("student", "critic") if step % 2 else ("critic",):
            for net in nets.values():
                net.zero_grad()  # also of what the other one's loss has left
            losses = [duel_loss(nets, name, x).loss / ACCUM for x in inputs]
            for loss in losses:
                loss.backward()
            torch.nn.utils.clip_grad_norm_(nets[name].parameters(), 1.0)
            for group in optimizers[name].param_groups:
                group["lr"] = rate(step)
            optimizers[name].step()
            row[name] = sum(losses).item()
        rows.append(row)
    return nets, rows


def run(folder, **options):
    folder.mkdir(exist_ok=True)
    trainer = toy_run(
        folder, method=Duel, max_steps=STEPS, batch_size=BATCH, accum=ACCUM, **options
    )
    trainer.train()
    return trainer


def test_each_role_is_moved_by_its_own_loss_alone(tmp_path):
    trainer = run(tmp_path)
    nets, wanted = plain_loop()
    rows = read_rows(tmp_path / "metrics.jsonl")
    for row, losses in zip(rows, wanted, strict=True):
        found = {"student": row.get("loss"), "critic": row["loss/critic"]}
        torch.testing.assert_close({k: found[k] for k in losses}, losses, rtol=1e-5, atol=1e-6)
        assert ("error" in row) == ("lr" in row) == ("student" in losses)
        assert row["lr/critic"] > 0 and row["skipped"] == 0
    for name, net in nets.items():
        own = trainer.backend.learners[name].net.state_dict()
        for key, value in net.state_dict().items():
            torch.testing.assert_close(own[key], value, rtol=1e-5, atol=1e-6)
    assert trainer.hooks[1].ema.tensors()["head.weight"].shape  # of the student, which is not first


def test_a_break_before_a_role_has_moved_leaves_no_trace(tmp_path):
    whole = run(tmp_path / "whole", snapshot_every=1)
    for step in (1, 2, 3):  # after the first one the student's optimizer has no state yet
        with pytest.raises(Interrupted):
            run(tmp_path / "cut", snapshot_every=1, stop_at=step)
    resumed = run(tmp_path / "cut", snapshot_every=1)
    names = ("step", "loss", "loss/critic", "grad_norm", "level")
    rows, wanted = (read_rows(tmp_path / kind / "metrics.jsonl") for kind in ("cut", "whole"))
    assert [[r.get(n) for n in names] for r in rows] == [[r.get(n) for n in names] for r in wanted]
    for role in ("student", "critic"):
        for name, value in whole.backend.weights(role).items():
            assert torch.equal(value, resumed.backend.weights(role)[name]), (role, name)
    assert resumed.method.rounds_done == whole.method.rounds_done == 6
    assert torch.equal(resumed.method.level, whole.method.level)


class Twice(Finetune):
    """Two rounds a step."""

    def rounds(self, inputs, step):
        for micro in inputs:
            yield Round(("student",), [micro])


def test_numbers_of_several_rounds_are_their_means(tmp_path):
    for kind, options in {"two": {"method": Twice, "accum": 2}, "one": {}}.items():
        (tmp_path / kind).mkdir()
        toy_run(tmp_path / kind, max_steps=2, **options).train()
    rows = read_rows(tmp_path / "two/metrics.jsonl")
    assert [row["lr"] for row in rows] == [5e-3, 1e-2]
    assert rows[0]["loss"] != rows[1]["loss"]
    assert set(rows[0]) == set(read_rows(tmp_path / "one/metrics.jsonl")[0])
