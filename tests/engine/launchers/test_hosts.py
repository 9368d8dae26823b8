# SPDX-License-Identifier: Apache-2.0
"""A run on two nodes is one command's: its signals, the faults of each node, and nobody is left behind."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import psutil
import pytest

from diffnext.engine.launchers import hosts, link, node
from diffnext.engine.launchers.link import Hub, Link, Word
from tests.engine.launchers.test_group import (
    ROOT,
    WORKER,
    Outcome,
    check_hang,
    finish,
    gone,
    pids,
    wait_for_save,
)

NODES = Path(__file__).with_name("nodes.py")
LAUNCH = """
import os, sys
from diffnext.engine.launchers import hosts
from diffnext.engine.launchers.base import Job
hosts.START_S = 3.0 if os.environ["NODES"] == "1" else 600.0
reach, *command = sys.argv[1:]
job = Job(main=lambda: 0, command=command, num_processes=1)
sys.exit(hosts.run_hosts([sys.executable, reach], job, ["node1", "node2"], "0"))
"""
pytestmark = pytest.mark.skipif(shutil.which("setsid") is None, reason="there is no setsid here")


def start(folder: Path, kind: str, *, nodes: int = 2) -> subprocess.Popen:
    command = [sys.executable, "-c", LAUNCH, str(NODES), str(WORKER), kind, str(folder)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "NODES": str(nodes)}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=-1, stderr=subprocess.STDOUT, text=True
    )


FAULTS = ("kill", "freeze", "refuse")
ENDS = {  # of runs that save
    "signal": "save",
    "everybody": "save",
    "second signal": "save_on",
    "no command": "save",
}


def ask(kind: str, running: subprocess.Popen, folder: Path, children: list[int]) -> None:
    """What happens to a run that trains, after which it saves or does not."""
    if kind == "no command":
        running.kill()
        return
    if kind == "everybody":  # as a scheduler does, and DeepSpeed's launcher once more
        processes = [psutil.Process(child) for child in children]
        watchers = [process.parents()[1] for process in processes]
        running.terminate()
        for reached in (*processes, *watchers, *watchers):
            # who has nothing to save may have ended
            with contextlib.suppress(psutil.NoSuchProcess):
                reached.terminate()
        return
    running.send_signal(signal.SIGINT)
    if kind == "second signal":
        wait_for_save(folder, running)
        running.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All that can happen, at the same time: it is waiting for the most part."""
    folders = {kind: tmp_path_factory.mktemp("run") for kind in (*FAULTS, *ENDS, "late")}
    running = {kind: start(folders[kind], kind) for kind in FAULTS}
    running |= {kind: start(folders[kind], what) for kind, what in ENDS.items()}
    running["late"] = start(folders["late"], "save", nodes=1)
    children = {kind: pids(folders[kind], running[kind]) for kind in (*FAULTS, *ENDS)}
    for kind in ENDS:
        ask(kind, running[kind], folders[kind], children[kind])
    outputs = {kind: process.communicate()[0] for kind, process in running.items()}
    return {
        kind: Outcome(folders[kind], children.get(kind, []), process.returncode, outputs[kind])
        for kind, process in running.items()
    }


def saved(outcome: Outcome) -> list[bool]:
    return [(outcome.folder / f"saved{rank}").exists() for rank in range(2)]


def test_a_process_that_is_killed_is_named_and_takes_the_other_node_along(outcomes):
    outcome = outcomes["kill"]
    assert outcome.code == 137, outcome.output
    name = rf"rank 1 on \S+ \(process {outcome.children[1]}\) is gone, last seen in step 3"
    assert re.search(rf"^error: {name} .*; ending the others$", outcome.output, re.M)
    assert re.search(rf"^error: it began on node2: {name} \(loss\)$", outcome.output, re.M)
    assert all(map(gone, outcome.children))


def test_a_process_that_stands_still_is_told_from_one_that_waits_for_it(outcomes):
    outcome = outcomes["freeze"]
    assert outcome.code == 124, outcome.output
    assert outcome.output.count("--- stacks of rank") == 2
    last = outcome.output.splitlines()[-1]
    assert re.match(r"error: it began on node2: rank 1 on .* it has stopped altogether$", last)
    assert all(map(gone, outcome.children))


def test_processes_that_refuse_together_have_said_why(outcomes):
    assert (outcomes["refuse"].code, outcomes["refuse"].output) == (2, "")


@pytest.mark.parametrize("kind", ["signal", "everybody"])
def test_a_signal_ends_all_nodes_in_order_however_long_it_takes(outcomes, kind):
    outcome = outcomes[kind]
    assert (outcome.code, saved(outcome)) == (0, [True, True]), outcome.output
    assert all(map(gone, outcome.children))


def test_a_second_signal_ends_all_nodes_at_once(outcomes):
    outcome = outcomes["second signal"]
    assert (outcome.code, saved(outcome)) == (128 + signal.SIGTERM, [False, True]), outcome.output
    assert all(map(gone, outcome.children))


def test_without_its_command_a_run_ends_in_order(outcomes):
    outcome = outcomes["no command"]  # its output ends with the last of its processes
    assert outcome.output.count("the command that started this run is gone") == 2
    assert saved(outcome) == [True, True]
    assert all(map(gone, outcome.children))


def test_a_node_that_does_not_come_is_named(outcomes):
    outcome = outcomes["late"]
    told = "error: after 3 s nothing has come from node2; ending all\n"
    assert (outcome.code, outcome.output) == (1, told)


def test_a_node_whose_watcher_is_gone_is_named(tmp_path, monkeypatch, capsys):
    for wait in ("KILL_S", "LAST_WORDS_S"):
        monkeypatch.setattr(hosts, wait, 0.1)
    hub = Hub()
    lines = [Link(hub.word(["x"], 1, "0"), node) for node in range(2)]
    heard = SimpleQueue()
    lines[0].listen(heard.put, lost=lambda: None)
    while len(hub.nodes()) < 2:
        time.sleep(0.01)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    lines[1].close()
    assert hosts.Hosts(child, str(tmp_path), hub, ["node1", "node2"]).wait() == 1
    hub.close()
    assert capsys.readouterr().err == "error: node2 is gone, or what watches it; ending all\n"
    assert heard.get() == {"signal": signal.SIGTERM, "times": 2}


@pytest.mark.slow
def test_deepspeed_s_launcher_starts_a_watcher(tmp_path):
    ssh = tmp_path / "ssh"  # by which DeepSpeed asks for the address of the first node
    ssh.write_text("#!/bin/sh\necho 127.0.0.1\n")
    ssh.chmod(0o755)
    (tmp_path / "hosts").write_text("node1 slots=2\n")
    code = (
        "import sys; from diffnext.engine.launchers.base import Job\n"
        "from diffnext.engine.launchers.deepspeed import launch\n"
        "sys.exit(launch(Job(lambda: 0, sys.argv[1:], num_processes=2, hostfile='hosts')))"
    )
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path, "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-c", code, str(WORKER), "freeze", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    outcome = finish(tmp_path, subprocess.Popen(command, cwd=tmp_path, env=env, **pipes))
    check_hang(outcome)


def test_a_word_is_one_for_any_shell():
    word = Word(
        ["10.0.0.1"], 1, "secret", ["train.py", "a b; $(touch y) 'c\"", "{x: [1]}"], 8, "0,1"
    )
    assert re.fullmatch(r"\w[\w=-]+", str(word), re.ASCII)
    assert Word.read(str(word)) == word


def come(hub: Hub) -> Link:
    """A line of the first node, which the hub has heard of."""
    line = Link(hub.word(["x"], 1, "0"), 0)
    while not hub.news():
        time.sleep(0.01)
    return line


def test_a_node_that_comes_by_a_second_line_is_not_lost_with_the_first():
    hub = Hub()
    first, second = come(hub), come(hub)
    heard = threading.Event()
    second.listen(lambda message: heard.set(), lost=lambda: None)
    first.close()
    time.sleep(0.2)  # for the hub to notice
    assert (hub.nodes(), hub.news()) == ([0], [])
    hub.send(0, signal=signal.SIGTERM, times=1)
    heard.wait()
    hub.close()


def test_a_line_goes_over_ipv6_too():
    if not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6 here")
    hub = Hub()
    line = Link(replace(hub.word(["x"], 1, "0"), addresses=["::1"]), 0)
    while not hub.news():
        time.sleep(0.01)
    assert hub.nodes() == [0]
    line.close()
    hub.close()


def test_addresses_of_one_cable_are_not_told(monkeypatch):
    found = [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "fe80::1%eth0"),
        (socket.AF_INET6, "fd00::2"),
        (socket.AF_INET, "10.0.0.2"),
        (psutil.AF_LINK, "02:00:00:00:00:01"),
    ]
    entries = [SimpleNamespace(family=family, address=address) for family, address in found]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": entries})
    assert link.own_addresses() == ["10.0.0.2", "fd00::2", "127.0.0.1", "::1"]


def test_a_watcher_whose_reader_is_gone_asks_for_an_end_all_the_same():
    code = (
        "import sys, time; from diffnext.engine.launchers import node; "
        "from diffnext.engine.launchers.link import Word\n"
        "def ended(command, *, echo_s, received, report):\n"
        "    while not received: time.sleep(0.01)\n"
        "    time.sleep(0.2)\n"
        "    return 7\n"
        "node.run_group = ended\n"
        "sys.exit(node.run(Word.read(sys.argv[1])))"
    )
    hub = Hub()
    env = os.environ | dict.fromkeys(node.VARIABLES, "0")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", code, str(hub.word(["x"], 1, "0"))]
    watcher = subprocess.Popen(command, cwd=ROOT, env=env, stderr=write)
    os.close(write)
    while not hub.nodes():
        assert watcher.poll() is None
        time.sleep(0.01)
    hub.close()
    assert watcher.wait() == 7


def test_nobody_else_is_listened_to(monkeypatch):
    monkeypatch.setattr(link, "ANSWER_S", 0.2)
    hub = Hub()
    word = hub.word(["x"], 1, "0")
    with socket.create_connection(("127.0.0.1", word.port)) as stranger:
        stranger.sendall(b'{"secret": "a guess", "node": 0, "host": "a"}\n')
        assert stranger.recv(1) == b""
    with socket.create_connection(("127.0.0.1", word.port)) as silent:
        assert silent.recv(1) == b""
    assert (hub.nodes(), hub.news()) == ([], [])
    hub.close()
    with pytest.raises(ConnectionError, match=r"cannot reach the command that started it, port"):
        Link(word, 0)
