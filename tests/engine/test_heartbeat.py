# SPDX-License-Identifier: Apache-2.0
"""Signs of life: what they say, and what a process does that nobody watches."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from diffnext.engine.heartbeat import FOLDER, HUNG, Heartbeat, read_beats
from diffnext.engine.hooks.base import Hook
from diffnext.engine.hooks.heartbeat import PATIENCE, HeartbeatHook
from diffnext.utils.temporary import BEGUN, temporary_folder
from tests.children import LONG_S
from tests.engine.runs import toy_run

ROOT = Path(__file__).parents[2]
ALONE = """
import sys, time
from diffnext.engine.heartbeat import Heartbeat
with Heartbeat(3, folder="", limit_s=float(sys.argv[2])) as heart:
    if len(sys.argv) == 4:
        heart.train(lambda: "data", logs=sys.argv[1])
        heart.move(8, limit_s=float(sys.argv[3]))
    time.sleep(600)
"""


class Spy(Hook):
    """Notes what the heart would say between two steps, and in a step."""

    def __init__(self, heart: Heartbeat) -> None:
        self.heart = heart
        self.seen = []

    def note(self, trainer):
        beat = self.heart.beat
        self.seen.append((beat.step, trainer.phase, beat.limit_s))

    def after_loss(self, trainer, role, inputs, output):
        self.note(trainer)

    def after_step(self, trainer, metrics):
        self.note(trainer)


def test_the_loop_says_where_it_is_and_how_long_it_may_be(tmp_path):
    trainer = toy_run(tmp_path, max_steps=2)
    with Heartbeat(0, folder=str(tmp_path)) as heart:
        spy = Spy(heart)
        trainer.hooks.insert(0, HeartbeatHook(heart, timeout_s=10.0, logs=tmp_path))
        trainer.hooks.append(spy)
        trainer.train()
        heart.end(0)
    slow = 10.0 * PATIENCE
    assert spy.seen == [
        (1, "loss", slow),
        (1, "hooks", slow),
        (2, "loss", 10.0),
        (2, "hooks", slow),
    ]
    (beat,) = read_beats(tmp_path)
    assert (beat.state, beat.code, beat.step) == ("ended", 0, 2)


def test_an_error_is_the_last_sign(tmp_path):
    with pytest.raises(OSError), Heartbeat(5, folder=str(tmp_path)):
        raise OSError("no more")
    (beat,) = read_beats(tmp_path)
    assert (beat.rank, beat.state, beat.code, beat.error) == (5, "ended", 1, "OSError: no more")
    assert beat.place == "before the first step"


def test_signs_are_written_while_the_process_works(tmp_path):
    with Heartbeat(0, folder=str(tmp_path)) as heart:
        heart.move(7, limit_s=0.0)  # the loop does not wait for its being written
        assert comes(tmp_path, lambda beat: beat.step == 7)


def test_a_stop_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("diffnext.engine.heartbeat.EVERY_S", 600.0)
    with Heartbeat(0, folder=str(tmp_path)) as heart:
        heart.train(lambda: "loss", logs=tmp_path)
        assert comes(tmp_path, lambda beat: beat.state == "training")
        heart.stopping()
        assert comes(tmp_path, lambda beat: beat.stopping)


@pytest.mark.parametrize("kind", ["at work", "at the start", "stopping"])
def test_a_process_whose_launcher_was_killed_is_asked_for_an_end(
    tmp_path, monkeypatch, capfd, kind
):
    """Once: of one that was asked before, a second signal would cut the checkpoint off."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with contextlib.ExitStack() as launcher:
        launcher.callback(signal.signal, signal.SIGTERM, before)
        folder = launcher.enter_context(temporary_folder())
        if kind == "at the start":
            (folder := tmp_path / f"{BEGUN}of_nobody").mkdir()
        with Heartbeat(2, folder=str(folder)) as heart:
            if kind != "at the start":
                assert comes(folder, lambda beat: beat.rank == 2) and not heard
                if kind == "stopping":
                    heart.stopping()
                os.rename(folder, tmp_path / "gone")
            wait_until(lambda: heart.folder == "")
        wait_until(lambda: heard or kind == "stopping")
        assert heard == ([] if kind == "stopping" else [signal.SIGTERM])
    told = f"(process {os.getpid()}): the command that started the run is gone"
    assert told in capfd.readouterr().err


def wait_until(condition) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def comes(folder, condition) -> bool:
    """Whether a sign of life meets a condition within some minutes."""
    deadline = time.monotonic() + LONG_S
    while not condition(read_beats(folder)[0]):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("training", [True, False])
def test_a_process_that_nobody_watches_watches_itself(tmp_path, monkeypatch, training):
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    limits = ["99.0", "1.0"] if training else ["1.0"]
    command = [sys.executable, "-c", ALONE, str(tmp_path), *limits]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == HUNG
    place = "in step 8 (data)" if training else "before the first step"
    assert "rank 3 on" in done.stderr and f"{place} for" in done.stderr
    assert "SOLVER.HANG_TIMEOUT" in done.stderr
    assert 'File "<string>", line 8 in <module>' in done.stderr
    files = [tmp_path / "stacks_rank_3.txt"] if training else []
    assert list(tmp_path.iterdir()) == files
    assert all("line 8" in path.read_text() for path in files)


def test_a_process_to_which_nobody_listens_ends_as_well(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER, raising=False)
    reader, writer = os.pipe()
    command = [sys.executable, "-c", ALONE, str(tmp_path / "no such folder"), "99.0", "1.0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=writer) as process:
        os.close(reader)
        os.close(writer)
        assert process.wait() == HUNG
