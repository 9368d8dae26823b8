# SPDX-License-Identifier: Apache-2.0
"""What a launcher does when a process dies, stands still, or is asked to end: with real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from diffnext.engine.heartbeat import Beat, Heartbeat
from diffnext.engine.launchers.faults import find_hang
from diffnext.engine.launchers.group import Group, run_group

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("worker.py")
LAUNCH = """
import sys
from diffnext.engine.launchers import LAUNCHERS
from diffnext.engine.launchers.base import Job
from diffnext.engine.launchers.group import run_group
launcher, worker, *rest = sys.argv[1:]
if launcher == "plain":
    sys.exit(run_group([sys.executable, worker, "start", *rest]))
job = Job(main=lambda: 0, command=[worker, *rest], num_processes=2)
sys.exit(LAUNCHERS.get(launcher)(job))
"""


def start(folder: Path, kind: str, launcher: str = "plain") -> subprocess.Popen:
    """A launcher with two processes, which meet by gloo under torchrun."""
    command = [sys.executable, "-c", LAUNCH, launcher, str(WORKER), kind, str(folder)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    if launcher == "torch":
        env["GLOO"] = "1"
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=-1, stderr=subprocess.STDOUT, text=True
    )


def pids(folder: Path, running: subprocess.Popen) -> list[int]:
    """Of the processes, once they train, as their signs of life tell; fewer if the launcher ends before."""
    paths = [folder / f"pid{rank}" for rank in range(2)]
    while running.poll() is None and not all(path.exists() and path.read_text() for path in paths):
        time.sleep(0.05)
    return [int(path.read_text()) for path in paths if path.exists()]


def wait_for_save(folder: Path, running: subprocess.Popen) -> None:
    """Until rank 1 has saved, and rank 0 is still at it."""
    while not (folder / "saved1").exists() and running.poll() is None:
        time.sleep(0.05)


def gone(pid: int) -> bool:
    return (
        not Path(f"/proc/{pid}").exists() or "(zombie)" in Path(f"/proc/{pid}/status").read_text()
    )


PLAIN = ("exit", "kill", "raise", "sleep", "freeze", "refuse", "refuse_alone")
LAST = r"is gone, last seen in step 3 \(loss\); ending the others.*"


@dataclass
class Outcome:
    """What is left of a run that went wrong."""

    folder: Path
    children: list[int]
    code: int
    output: str


def finish(folder: Path, running: subprocess.Popen) -> Outcome:
    children = pids(folder, running)
    output = running.communicate()[0]
    return Outcome(folder, children, running.returncode, output)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, Outcome]:
    """All that can go wrong, at the same time: it is waiting for the most part."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in PLAIN}
    running = {kind: start(folder, kind) for kind, folder in folders.items()}
    return {kind: finish(folders[kind], running[kind]) for kind in PLAIN}


def check_death(outcome: Outcome, *, codes: tuple[int, ...], told: str) -> None:
    assert outcome.code in codes, outcome.output
    name = rf"error: rank 1 on \S+ \(process {outcome.children[1]}\) "
    assert re.search(name + told, outcome.output, re.S), outcome.output
    assert "error: rank 0" not in outcome.output
    assert all(map(gone, outcome.children))


def check_hang(outcome: Outcome) -> None:
    assert outcome.code == 124, outcome.output
    told = r"error: rank \d on \S+ .* has been in step 3 \(loss\) for \d+ s"
    assert re.search(told, outcome.output), outcome.output
    assert re.search(r"--- stacks of rank 0 .*in (barrier|meet)\n", outcome.output, re.S)
    assert all(map(gone, outcome.children))


@pytest.mark.parametrize(
    ("kind", "code", "told"),
    [
        ("exit", 3, LAST + "ended by exit code 3"),
        ("kill", 137, LAST + "ended by signal SIGKILL"),
        ("raise", 1, r"failed in step 3 \(loss\): OSError: the disk is gone; ending"),
    ],
)
def test_a_process_that_dies_is_named_and_takes_the_others_along(outcomes, kind, code, told):
    check_death(outcomes[kind], codes=(code,), told=told)


@pytest.mark.parametrize("kind", ["sleep", "freeze"])
def test_a_process_that_stands_still_is_found_with_the_stacks_of_all(outcomes, kind):
    check_hang(outcomes[kind])


def test_of_those_that_wait_for_a_checkpoint_the_one_that_writes_is_named():
    now = time.monotonic()
    beat = Beat(0, "node", 1, "training", step=4, phase="saved", limit_s=10.0, written=now)
    first, slow = replace(beat, moved=now - 20), replace(beat, rank=1, phase="saving", moved=now)
    assert "rank 1 on node (process 1) has been in step 4 (saving)" in find_hang([first, slow]).text


def test_processes_that_refuse_together_have_said_why(outcomes):
    assert (outcomes["refuse"].code, outcomes["refuse"].output) == (2, "")


def test_one_that_refuses_alone_is_named(outcomes):
    told = r"ended with exit code 2, before the first step; the others were ended\n$"
    check_death(outcomes["refuse_alone"], codes=(2,), told=told)


def test_the_stacks_are_kept_with_the_logs(outcomes):
    assert "in go_wrong" in outcomes["sleep"].output
    assert "in go_wrong" in (outcomes["sleep"].folder / "stacks_rank_1.txt").read_text()


def test_under_torchrun_a_killed_process_is_named(tmp_path):
    outcome = finish(tmp_path, start(tmp_path, "kill", "torch"))
    check_death(outcome, codes=(137,), told=LAST + "ended by signal SIGKILL")


def test_under_torchrun_a_hanging_process_is_found(tmp_path):
    check_hang(finish(tmp_path, start(tmp_path, "sleep", "torch")))


@pytest.mark.slow
def test_under_deepspeed_a_killed_process_is_named(tmp_path):
    outcome = finish(tmp_path, start(tmp_path, "kill", "deepspeed"))
    check_death(outcome, codes=(137,), told=LAST + "ended by signal SIGKILL")
    assert "it began on" not in outcome.output  # there is one node only


@pytest.mark.parametrize("everybody", [False, True], ids=["launcher", "everybody"])
def test_a_signal_ends_the_run_in_order_however_long_it_takes(tmp_path, everybody):
    running = start(tmp_path, "save")
    children = pids(tmp_path, running)
    if everybody:
        for pid in reversed(children):  # the first one saves, the other ends at once
            os.kill(pid, signal.SIGTERM)
    running.send_signal(signal.SIGTERM)
    output = running.communicate()[0]
    assert running.returncode == 0, output
    assert all((tmp_path / f"saved{rank}").exists() for rank in range(2))
    assert output.count("SIGTERM: ending after this step") == (2 if everybody else 1)


def test_a_second_signal_ends_at_once(tmp_path):
    running = start(tmp_path, "save_on")
    children = pids(tmp_path, running)
    running.send_signal(signal.SIGINT)
    wait_for_save(tmp_path, running)
    running.send_signal(signal.SIGTERM)
    running.communicate()
    assert running.returncode == 128 + signal.SIGTERM
    assert all(map(gone, children))


def test_a_process_that_ends_while_it_is_looked_at_is_no_death(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    with Heartbeat(1, folder=str(tmp_path)) as heart:
        heart.beat = replace(heart.beat, pid=ended.pid, state="training", step=7)
        before = [heart.beat]
        heart.end(0)
    ended.wait()
    group = Group(ended, str(tmp_path), grace_s=1.0)
    group._find_fault(before)
    assert group.fault is None
    (tmp_path / "rank_1.json").write_text(json.dumps(asdict(before[0])))
    group._find_fault(before)
    assert "is gone, last seen in step 7" in group.fault.text


def test_what_nohup_has_made_ignored_stays_ignored():
    child = "import os, signal, time; os.kill(os.getppid(), signal.SIGHUP); time.sleep(0.6)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_group([sys.executable, "-c", child]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
