# SPDX-License-Identifier: Apache-2.0
"""How the training command ends before its last step: exit codes, messages, and what goes on."""

import json
import re
import shlex

import pytest

from diffnext.data.records.lock import LOCK, FolderLock
from diffnext.utils.metrics import read_rows
from tests.runs.test_overfit import train
from tests.runs.tiny_nova import make_run

FAULTY = ["METHOD.TYPE", "tests.runs.faulty:Faulty"]


def losses(run):
    return [row["loss"] for row in read_rows(run / "logs/metrics.jsonl")]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("ends"), "t2i")


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole")
    assert train("--cfg", str(config), "--exp-dir", str(run), *FAULTY) == 0
    return run


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_ends_a_run_in_order_and_the_command_it_prints_goes_on(
    config, whole, tmp_path, capsys, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    arguments = ["--cfg", str(config), *FAULTY]
    assert train(*arguments, "METHOD.CONFIG", f"{{at: 4, what: {name}}}") == 0
    told = capsys.readouterr().out
    assert f"ended at step 4 of 6: {name}" in told
    (run,) = (tmp_path / "runs").iterdir()
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == [
        "tiny_iter_3",
        "tiny_iter_4",
    ]
    words = printed_command(told)
    assert str(run) in words
    assert train(*words) == 0
    assert losses(run) == losses(whole)


def printed_command(told):
    (line,) = [line for line in told.splitlines() if line.startswith("to go on: ")]
    python, _, *words = shlex.split(line.removeprefix("to go on: "))
    assert python == "python"
    return words


def test_a_time_limit_ends_a_run_in_order(config, tmp_path, capsys):
    arguments = ["--cfg", str(config), "--exp-dir", str(tmp_path), "SOLVER.MAX_HOURS", "1e-9"]
    assert train(*arguments) == 0
    assert "ended at step 1 of 6: 0.00 h have passed of SOLVER.MAX_HOURS 1e-09" in (
        capsys.readouterr().out
    )
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["tiny_iter_1"]


def test_the_printed_command_goes_on_with_a_run_that_insisted_on_a_new_start(
    config, tmp_path, capsys
):
    arguments = ["--cfg", str(config), "--exp-dir", str(tmp_path), "--resume", "none"]
    assert train(*arguments, "SOLVER.MAX_STEPS", "3", "SOLVER.MAX_HOURS", "1e-9") == 0
    assert train(*printed_command(capsys.readouterr().out)) == 0
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["tiny_iter_1", "tiny_iter_2"]


def test_two_runs_do_not_write_to_one_folder(config, tmp_path, capsys):
    arguments = ["--cfg", str(config), "--exp-dir", str(tmp_path / "run"), "SOLVER.MAX_STEPS", "1"]
    with FolderLock(tmp_path / "run"):
        assert train(*arguments) == 2
        assert "is being written to by process" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    assert train(*arguments) == 0
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_folder_that_cannot_be_made_is_refused(config, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert train("--cfg", str(config), "--exp-dir", str(tmp_path / "file/run")) == 2
    told = capsys.readouterr().err
    assert re.fullmatch(r"error: .*file/run cannot be written to \(.*\); name another .*\n", told)


def test_a_run_of_nothing_but_nan_ends_with_what_to_do(config, tmp_path, capsys):
    arguments = ["--cfg", str(config), "--exp-dir", str(tmp_path), *FAULTY]
    arguments += ["METHOD.CONFIG", "{at: 3}", "SOLVER.MAX_SKIPPED", "2"]
    assert train(*arguments) == 1
    told = capsys.readouterr()
    assert "error: loss or gradient was not finite in steps 3 to 4" in told.err
    row = json.loads((tmp_path / "logs/nonfinite/step_3_rank_0.json").read_text())["samples"][0]
    assert row["noise"]["min"] < row["noise"]["mean"] < row["noise"]["max"]
    assert row["loss"] == "nan"
    assert row["record"].startswith(str(config.parent / "cache"))
    assert losses(tmp_path)[2:] == [None, None]


def test_a_world_that_nobody_started_is_refused(config, capsys, monkeypatch):
    for variable in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert train("--cfg", str(config)) == 2
    assert "NUM_GPUS is 1 and WORLD_SIZE is 4" in capsys.readouterr().err
