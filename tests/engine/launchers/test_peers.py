# SPDX-License-Identifier: Apache-2.0
"""Of a run on several nodes each launcher names the process that the end began with, wherever it was."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from diffnext.engine.heartbeat import Beat
from diffnext.engine.launchers import faults
from diffnext.engine.launchers.faults import Fault
from diffnext.engine.launchers.link import Hub
from diffnext.engine.launchers.peers import Peers
from tests.engine.launchers.test_group import ROOT, WORKER, gone, pids

LAUNCH = """
import sys
from diffnext.engine.launchers.peers import run_peers
sys.exit(run_peers([sys.executable, *sys.argv[1:]]))
"""
KINDS = {  # what rank 1 does, and whether rank 0 notices, as with gloo, or waits for it, as with NCCL
    "noticed": ("kill", "1"),
    "waited for": ("kill", ""),
    "stopped": ("freeze", ""),
    "in order": ("save", ""),
}


def start(folder: Path, node: int, kind: str, notices: str) -> subprocess.Popen:
    """The launcher of a node, with one process."""
    command = [sys.executable, "-c", LAUNCH, str(WORKER), "node", str(node), kind, str(folder)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "NOTICES": notices}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=-1, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Exit codes and outputs of both nodes, and who should be gone; all at the same time."""
    folders = {name: tmp_path_factory.mktemp("run") for name in KINDS}
    running = {
        name: [start(folders[name], node, *kind) for node in range(2)]
        for name, kind in KINDS.items()
    }
    children = {name: pids(folder, running[name][0]) for name, folder in folders.items()}
    (folders["in order"] / "asked0").write_text("3")
    outputs = {name: [one.communicate()[0] for one in running[name]] for name in KINDS}
    codes = {name: [one.returncode for one in running[name]] for name in KINDS}
    return {name: (codes[name], outputs[name], children[name]) for name in KINDS}


def named(child: int) -> str:
    return rf"rank 1 on \S+ \(process {child}\) "


def test_where_a_connection_is_lost_the_process_that_was_killed_is_named(outcomes):
    codes, (first, second), children = outcomes["noticed"]
    assert codes == [1, 137], (first, second)
    told = f"^error: (it began on another node: )?{named(children[1])}is gone, last seen in step 3"
    assert re.search(told, first, re.M), first
    assert "another node" not in second


def test_a_lost_connection_is_traced_to_the_process_that_was_killed(tmp_path, capsys):
    beat = Beat(0, "node1", 1, "ended", step=3, code=1, error="closed by peer", written=100.0)
    lost = Fault(beat, "rank 0 failed", 1)
    killed = Fault(Beat(1, "node2", 2, "training", step=3, written=99.9), "rank 1 is gone")
    hub = Hub()
    group = Peers(subprocess.Popen(["true"]), str(tmp_path), hub)
    group._tell(lost)
    group._hear({"fault": faults.to_message(killed)})
    assert group._code_of_fault(lost, 1) == 1
    assert capsys.readouterr().err == "error: it began on another node: rank 1 is gone\n"
    hub.close()


def test_processes_that_would_wait_for_one_that_is_gone_are_ended(outcomes):
    codes, (first, second), children = outcomes["waited for"]
    assert codes[0] != 0 and codes[1] == 137, (first, second)
    told = f"^error: {named(children[1])}is gone, .*; ending the processes of this node$"
    assert re.search(told, first, re.M), first
    assert all(map(gone, children))


def test_of_nodes_that_stand_still_the_one_that_has_stopped_is_named(outcomes):
    codes, (first, second), children = outcomes["stopped"]
    assert codes == [124, 124], (first, second)
    assert re.search(f"error: (it .*node: )?{named(children[1])}has been in step 3 .*", first)
    assert "--- stacks of rank 0" in first and "--- stacks of rank 1" in second
    assert all(map(gone, children))


def test_an_end_in_order_is_no_fault(outcomes):
    codes, outputs, _ = outcomes["in order"]
    assert (codes, outputs) == ([0, 0], ["", ""])


def test_a_fault_keeps_its_age_on_another_machine(monkeypatch):
    beat = Beat(1, "node", 7, "training", step=3, moved=100.0, written=105.0)
    fault = Fault(beat, "gone", 9)
    monkeypatch.setattr(time, "monotonic", lambda: 110.0)
    message = faults.to_message(fault)
    monkeypatch.setattr(time, "monotonic", lambda: 20.0)
    assert faults.from_message(message) == replace(
        fault, beat=replace(beat, moved=10.0, written=15.0)
    )
