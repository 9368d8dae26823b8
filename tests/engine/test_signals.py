# SPDX-License-Identifier: Apache-2.0
"""The first signal asks, the second ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffnext.engine.signals import SIGNALS, on_signals

ROOT = Path(__file__).parents[2]
TWICE = """
import os, signal, time
from diffnext.engine.signals import on_signals
with on_signals(lambda name: print(name, flush=True)):
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_becomes_a_request(number, capfd):
    asked, before = [], signal.getsignal(number)
    with on_signals(asked.append):
        os.kill(os.getpid(), number)
    assert asked == [number.name]
    assert f"{number.name}: ending after this step" in capfd.readouterr().err
    assert signal.getsignal(number) == before


def test_an_ignored_signal_stays_ignored():
    asked, before = [], signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_signals(asked.append):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        after = signal.signal(signal.SIGHUP, before)
    assert not asked and after == signal.SIG_IGN


def test_a_second_signal_ends_at_once():
    command = [sys.executable, "-c", TWICE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["SIGTERM", "still here"]
    assert done.returncode == 128 + signal.SIGINT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(("echo_s", "ends"), [(600.0, 0), (0.05, 128 + signal.SIGTERM)])
def test_the_echo_of_a_signal_is_the_same_signal(echo_s, ends):
    child = os.fork()
    if child == 0:
        with on_signals(lambda name: None, echo_s=echo_s):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == ends


def test_a_request_is_heard_where_nobody_reads_what_is_said(monkeypatch):
    def refuse(*_):
        raise BrokenPipeError

    asked = []
    monkeypatch.setattr(os, "write", refuse)  # as `2>&1 | tee log`, which Ctrl-C ends first
    with on_signals(asked.append):
        os.kill(os.getpid(), signal.SIGINT)
    assert asked == ["SIGINT"]
