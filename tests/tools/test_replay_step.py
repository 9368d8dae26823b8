# SPDX-License-Identifier: Apache-2.0
"""A step run again meets the same samples, the same noise and, given its weights, the same loss."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from diffnext.data.journal import JOURNAL
from diffnext.utils.metrics import read_rows
from tests.runs.test_overfit import train
from tests.runs.tiny_nova import make_run

TOOL = Path(__file__).parents[2] / "tools" / "replay_step.py"


def replay(*arguments: str) -> int:
    spec = importlib.util.spec_from_file_location("replay_step", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(list(arguments))


@pytest.fixture(scope="module", params=["t2i", "t2v"])
def run(request, tmp_path_factory) -> Path:
    """Six steps of two micro-batches, with checkpoints after the third and the sixth."""
    folder = tmp_path_factory.mktemp(request.param)
    config = make_run(folder, request.param, **{"TRAIN.BATCH_SIZE": 2, "SOLVER.ACCUM_STEPS": 2})
    journal = folder / "cache" / JOURNAL
    journal.write_text("".join(json.dumps({"path": f"/media/{i}.mp4"}) + "\n" for i in range(8)))
    assert train("--cfg", str(config), "--exp-dir", str(folder / "run")) == 0
    return folder / "run"


def told_loss(output: str, run: Path, step: int) -> float:
    """What the tool says the loss was, after a check of what it says of the log."""
    row = read_rows(run / "logs/metrics.jsonl")[step - 1]
    name = "loss"
    value, logged = re.search(rf"^{name} (\S+)  in the log (\S+)$", output, re.M).groups()
    assert float(logged) == row[name]
    return float(value)


@pytest.mark.parametrize("step", [1, 4])
def test_a_step_after_a_checkpoint_is_repeated_bit_for_bit(run, capsys, step):
    assert replay("--run", str(run), "--step", str(step)) == 0
    output = capsys.readouterr().out
    assert f"weights of step {step - 1}, those it met" in output
    row = read_rows(run / "logs/metrics.jsonl")[step - 1]
    assert told_loss(output, run, step) == row["loss"]
    assert f"grad_norm {row['grad_norm']!r}  in the log {row['grad_norm']!r}" in output
    samples = re.findall(r"^ +(\d\.\d{6}) +(\d\.\d{4})  .*epoch \d  /media/\d.mp4", output, re.M)
    assert len(samples) == 4
    losses = [float(loss) for loss, _ in samples]
    assert sum(losses) / 4 == pytest.approx(row["loss"], rel=1e-4)
    assert all(0.1 < float(noise) < 0.9 for _, noise in samples)


def test_a_later_step_says_how_old_its_weights_are_unless_it_is_exact(run, capsys):
    row = read_rows(run / "logs/metrics.jsonl")[5]
    assert replay("--run", str(run), "--step", "6") == 0
    output = capsys.readouterr().out
    assert "weights of step 3, 2 steps short of those it met" in output
    assert told_loss(output, run, 6) != row["loss"]
    assert replay("--run", str(run), "--step", "6", "--exact") == 0
    assert told_loss(capsys.readouterr().out, run, 6) == row["loss"]


def test_other_weights_may_be_given(run, capsys):
    own = run / "checkpoints/tiny_iter_3"
    found = []
    for weights in (own, own / "transformer", run / "ema_checkpoints/tiny_iter_6"):
        assert replay("--run", str(run), "--step", "4", "--weights", str(weights)) == 0
        found.append(told_loss(capsys.readouterr().out, run, 4))
    logged = read_rows(run / "logs/metrics.jsonl")[3]["loss"]
    assert found[0] == found[1] == logged
    assert found[2] != logged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "7"], "step 7 is none of 1 to 6"),
        (["--step", "2", "--weights", "/nope"], "--weights /nope is no complete checkpoint"),
    ],
)
def test_what_is_not_there_is_refused(run, capsys, arguments, message):
    assert replay("--run", str(run), *arguments) == 2
    assert message in capsys.readouterr().err


def test_nothing_is_written(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert replay("--run", str(run), "--step", "5") == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
