# SPDX-License-Identifier: Apache-2.0
"""What the log says of the time that data took."""

import io
import logging
import sys
from types import SimpleNamespace

import pytest

from diffnext.data.records.base import Times
from diffnext.engine.hooks.log import WaitSplit
from diffnext.utils.logging import close, logger, setup
from diffnext.utils.metrics import read_rows
from tests.engine.runs import Interrupted, toy_run


def test_a_wait_is_divided_as_the_readers_spent_their_time():
    times, waits = Times(), WaitSplit()
    trainer = SimpleNamespace(batches=SimpleNamespace(times=times), data_wait_s=0.0)
    found = []
    for read, decode, wait in [(3.0, 1.0, 2.0), (3.0, 1.0, 0.5), (4.0, 4.0, 1.0)]:
        times.read_s, times.decode_s, trainer.data_wait_s = read, decode, wait
        found.append(list(waits.split(trainer).values()))
    assert found == [[2.0, 1.5, 0.5], [0.5, 0.5, 0.0], [1.0, 0.25, 0.75]]


def test_batches_that_say_nothing_were_waited_for():
    trainer = SimpleNamespace(batches=iter(()), data_wait_s=1.5)
    wanted = {"data_wait": 1.5, "data_read": 1.5, "data_decode": 0.0}
    assert WaitSplit().split(trainer) == wanted


class Clock:
    """A timer that has these durations to tell."""

    def __init__(self, durations):
        self.durations = durations

    def start(self):
        pass

    stop = start

    def take(self):
        taken, self.durations = self.durations, []
        return taken


def test_transfers_of_all_micro_batches_count_to_their_step(tmp_path, caplog):
    trainer = toy_run(tmp_path, accum=2, batch_size=2, max_steps=3)
    trainer.timer, trainer.transfers = Clock([2.0] * 3), Clock([0.1, 0.2, 0.3, 0.4, 0.0, 0.5])
    with caplog.at_level(logging.INFO, "diffnext"):
        trainer.train()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["data_transfer"] for row in rows] == pytest.approx([0.3, 0.7, 0.5])
    assert ", decode 0.0, transfer 25.0)" in caplog.text
    assert "damaged" not in rows[-1] and " damaged  mem" not in caplog.text


def test_damaged_records_are_counted(tmp_path, caplog):
    trainer = toy_run(tmp_path, max_steps=2)
    trainer.batches.damaged = 7
    with caplog.at_level(logging.INFO, "diffnext"):
        trainer.train()
    assert [row["damaged"] for row in read_rows(tmp_path / "metrics.jsonl")] == [7, 7]
    assert "  7 damaged  mem" in caplog.text


def test_a_step_that_breaks_off_does_not_shift_the_others(tmp_path):
    trainer = toy_run(tmp_path, accum=2, batch_size=2, max_steps=8)
    trainer.timer, trainer.transfers = Clock([1.0]), Clock([0.1, 0.2, 0.4])
    batches = trainer.batches

    class Stops:
        def __init__(self):
            self.left = 3

        def __next__(self):
            self.left -= 1
            if self.left < 0:
                raise Interrupted
            return next(batches)

    trainer.batches = Stops()
    with pytest.raises(Interrupted):
        trainer.train()
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert row["data_transfer"] == pytest.approx(0.3)


class Terminal(io.StringIO):
    """What both streams of a process write to."""

    def isatty(self):
        return True

    def lines(self):
        """What is to be read: a line that is begun anew covers what was there."""
        return [line.rpartition("\r")[2].rstrip() for line in self.getvalue().split("\n")]


def test_the_bar_on_a_terminal_stays_below_the_lines(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    setup(file=str(tmp_path / "train.log"))
    try:
        toy_run(tmp_path, max_steps=8).train()
        logger.info("the end")
    finally:
        close()
    assert terminal.getvalue().count("step/s]") >= 3  # between the lines of the log
    *lines, last = [line for line in terminal.lines() if line]
    logged = (tmp_path / "train.log").read_text().splitlines()
    messages = [line.split(" INFO ")[1] for line in logged]
    assert [line[9:] for line in lines if "8/8 [" not in line] + [last[9:]] == messages
    assert sum("step" in message for message in messages) == 3 and messages[-1] == "the end"
