# SPDX-License-Identifier: Apache-2.0
"""ZeRO computes in the precision of the run, on a GPU as on a CPU, and its loss scale is kept."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffnext.engine.backends.deepspeed import DeepSpeedBackend
from diffnext.engine.scaler import LossScaler, ZeroScale

ROOT = Path(__file__).parents[2]
PRECISIONS = ["bfloat16", "float16", "float32"]


@pytest.fixture(scope="module")
def extensions(tmp_path_factory):
    """The folder of compiled extensions."""
    return tmp_path_factory.mktemp("extensions")


@pytest.fixture(scope="module")
def told(extensions):
    """What the script says."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0", "TORCH_EXTENSIONS_DIR": str(extensions)}
    command = [sys.executable, "-m", "tests.engine.low_precision", *PRECISIONS]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_each_stage_computes_in_the_precision_of_the_run(told):
    found = [row for row in told if "types" in row]
    assert [(row["precision"], row["stage"], row["role"]) for row in found] == [
        (precision, stage, role)
        for precision in PRECISIONS
        for stage in range(4)
        for role in ("student", "teacher")
    ]
    for row in found:
        precision = row["precision"]
        split = row["role"] == "student" and row["stage"] > 0
        master = precision if split else "float32"
        assert row["types"] == [f"torch.{precision}", f"torch.{master}"], row


def test_nothing_is_compiled(told, extensions):
    """A compilation that is killed would leave a lock that every later start waits for."""
    assert told
    assert list(extensions.iterdir()) == []


def test_the_loss_scale_goes_on_as_it_was(told):
    found = {row["scaled"]: row for row in told if "scaled" in row}
    assert sorted(found) == [1, 3]
    for row in found.values():
        assert row["resumed"] == row["whole"]
        assert row["begin"][-1] < max(row["whole"]) > row["whole"][-1]  # doubled, and halved


def test_a_loss_scale_goes_to_other_backends_and_back():
    ours, theirs = LossScaler(torch.device("cpu"), start=512.0), SimpleNamespace(delayed_shift=2)
    ours.good_steps.fill_(7)
    ZeroScale(theirs).load_state_dict(ours.state_dict())
    assert (theirs.cur_scale, theirs.cur_hysteresis) == (512, 2)
    theirs.cur_iter += 1  # a good step
    ours.load_state_dict(ZeroScale(theirs).state_dict())
    assert (ours.scale.item(), ours.good_steps.item()) == (512, 8)


def test_state_is_gathered_in_one_order_by_all_processes():
    """Each field is a sum over all, which must not meet that of another field."""
    flat, asked = torch.zeros(4), []

    def state_of(param, *, key):
        asked.append(key)
        return param

    for keys in (["exp_avg", "exp_avg_sq"], ["exp_avg_sq", "exp_avg"]):
        learner = SimpleNamespace(
            link=lambda: None,
            flat=lambda: [flat],
            optimizer=SimpleNamespace(state={flat: {key: torch.zeros(4) for key in keys}}),
            named_learning=lambda: {"a": torch.ones(2)},
            state_of=state_of,
        )
        backend = object.__new__(DeepSpeedBackend)
        backend.stage, backend.learners = 2, {"student": learner}
        backend.env = SimpleNamespace(world=1, rank=0)
        assert set(backend.optimizer_state("student")) == {"a.exp_avg", "a.exp_avg_sq"}
    assert asked == ["exp_avg", "exp_avg_sq"] * 2
