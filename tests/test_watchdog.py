# SPDX-License-Identifier: Apache-2.0
"""Processes that hang are ended and say where they were, and nothing of a session outlives it for long."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import children, place, watchdog

ROOT = Path(__file__).parents[1]
STUCK = "import time\ndef stuck():\n    print(flush=True)\n    time.sleep(600)\nstuck()"
SESSION = """
import os, subprocess, sys
from tests import place
place.settle()
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, "-c", sys.argv[1]])
    os.kill(os.getpid(), 9)
"""


def test_a_child_that_hangs_says_where_it_was():
    began = time.time()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", STUCK], **pipes) as child:
        child.stdout.readline()
        ended = watchdog.end(watchdog.started_since(began), signal.SIGABRT)
        assert any(line.startswith(f"{child.pid}: ") for line in ended)
        assert "in stuck" in child.stderr.read()
    assert child.returncode == -signal.SIGABRT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(("first", "codes"), [("late", {-6}), ("killed", {-9}), ("well", {0})])
def test_forks_end_together(first, codes):
    forks = [os.fork() or sleep(600 if first != "well" else 0) for _ in range(2)]
    if first == "killed":
        os.kill(forks[0], signal.SIGKILL)
    limit_s = 0.1 if first == "late" else children.LONG_S
    assert set(children.wait(forks, limit_s=limit_s)) == codes


def sleep(seconds):
    """Be a child, in which nothing of the test goes on."""
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    time.sleep(seconds)
    os._exit(0)


@pytest.mark.skipif(place.fcntl is None, reason="locks of another kind")
def test_the_next_session_clears_what_a_killed_one_has_left(tmp_path):
    env = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    env |= {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SESSION]
    killed = subprocess.run([*command, STUCK], env=env, stdout=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    (left,) = place.started(str(folder))
    assert subprocess.run(command, env=env).returncode == 0
    assert list(tmp_path.iterdir()) == []
    while watchdog.alive(left):
        time.sleep(0.01)
