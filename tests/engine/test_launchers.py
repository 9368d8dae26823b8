# SPDX-License-Identifier: Apache-2.0
"""Exit codes reach the caller, and no child outlives its launcher."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from diffnext.engine.launchers import LAUNCHERS, agent, node
from diffnext.engine.launchers import deepspeed as by_deepspeed
from diffnext.engine.launchers.base import Job
from diffnext.engine.launchers.group import run_group
from diffnext.engine.launchers.link import Word
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SLEEPER = """
import os, sys, time
open(sys.argv[1] + os.environ.get("RANK", ""), "w").write(str(os.getpid()))
time.sleep(600)
"""
PARENT = """
import sys
from diffnext.engine.launchers import LAUNCHERS
from diffnext.engine.launchers.base import Job
job = Job(main=lambda: 0, command=sys.argv[2:], num_processes=2)
sys.exit(LAUNCHERS.get(sys.argv[1])(job))
"""


def job(script: Path, *arguments: str, processes: int = 2) -> Job:
    return Job(main=lambda: 7, command=[str(script), *arguments], num_processes=processes)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def wait_for(paths: list[Path], parent: subprocess.Popen) -> list[int]:
    while not all(path.exists() and path.read_text() for path in paths):
        assert parent.poll() is None, "the children did not start"
        time.sleep(0.05)
    return [int(path.read_text()) for path in paths]


def test_every_launcher_is_found():
    assert LAUNCHERS.names() == ["deepspeed", "simple", "torch"]


def test_the_simple_launcher_works_in_this_process():
    assert LAUNCHERS.get("simple")(job(Path("unused"))) == 7


@pytest.mark.parametrize(
    ("code", "expected"),
    [("pass", 0), ("raise SystemExit(5)", 5), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_a_group_returns_the_exit_code(code, expected):
    assert run_group([sys.executable, "-c", code]) == expected


def test_arguments_are_not_read_by_a_shell(tmp_path):
    odd = "a b; touch x $(touch y) 'c\""
    code = "import sys; open('out', 'w').write(sys.argv[1])"
    command = [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {code}", odd]
    assert run_group(command) == 0
    assert (tmp_path / "out").read_text() == odd
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_children_and_grandchildren(tmp_path, number):
    nested = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}, sys.argv[1]])"
    )
    code = (
        "import sys; from diffnext.engine.launchers.group import run_group;"
        f"sys.exit(run_group([sys.executable, '-c', {nested!r}, sys.argv[1]]))"
    )
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", code, str(pid_file)], cwd=ROOT)
    (grandchild,) = wait_for([pid_file], parent)
    parent.send_signal(number)
    assert parent.wait() == 128 + number
    assert not alive(grandchild)


def test_torchrun_returns_the_code_of_the_process_that_failed(tmp_path, monkeypatch):
    """And leaves nothing behind, which torch's own does for each run."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    script = tmp_path / "fail.py"
    script.write_text("import os, sys; sys.exit(3 if os.environ['RANK'] == '1' else 0)")
    assert LAUNCHERS.get("torch")(job(script)) == 3
    script.write_text("import os, sys; assert os.environ['WORLD_SIZE'] == '2'; sys.exit(0)")
    assert LAUNCHERS.get("torch")(job(script)) == 0
    assert os.listdir(tmp_path / "tmp") == []


def test_a_node_that_waits_in_vain_says_where(capsys):
    port = free_port()
    where = ["--nnodes=2", "--node-rank=0", "--master-addr=127.0.0.1", f"--master-port={port}"]
    assert agent.run([*where, "--rdzv-conf=timeout=1", "--nproc-per-node=1", "x.py"]) == 1
    told = capsys.readouterr().err
    place = f"127.0.0.1:{port}"
    assert told.startswith(
        f"error: the 2 nodes do not reach each other at {place} (DistStoreError: "
    )
    assert "1/2 clients joined" in told and told.count("\n") == 1


@pytest.mark.parametrize("name", ["torch", "deepspeed"])
def test_ctrl_c_ends_all_processes(tmp_path, name):
    script = tmp_path / "sleep.py"
    script.write_text(SLEEPER)
    command = [sys.executable, "-c", PARENT, name, str(script), str(tmp_path / "pid")]
    env = os.environ | {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(command, cwd=tmp_path, env=env, start_new_session=True)
    children = wait_for([tmp_path / "pid0", tmp_path / "pid1"], parent)
    parent.send_signal(signal.SIGINT)
    assert parent.wait() == 130
    assert not any(map(alive, children))


def test_deepspeed_returns_the_code_of_the_process_that_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    script = tmp_path / "fail.py"
    script.write_text("import os, sys; sys.exit(3 if os.environ['RANK'] == '1' else 0)")
    assert LAUNCHERS.get("deepspeed")(job(script)) == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"--host .*hosts does not exist"),
        ("# node1 slots=8\n\n", "names no node; write a line for each"),
        ("node1 slots=8\nnode2 slots=8\n", "needs pdsh to reach several nodes"),
    ],
)
def test_what_is_wrong_with_a_hostfile_is_said(tmp_path, monkeypatch, content, told):
    path = tmp_path / "hosts"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("PATH", str(tmp_path))  # no pdsh is there
    with pytest.raises(ValueError, match=told):
        LAUNCHERS.get("deepspeed")(
            Job(main=lambda: 0, command=["x"], num_processes=1, hostfile=str(path))
        )


def test_a_hostfile_of_one_node_needs_no_pdsh(tmp_path, monkeypatch):
    (tmp_path / "hosts").write_text("# the only one\nnode1 slots=8\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MASTER_PORT", "30001")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")  # of this machine, which may be none of them
    wanted = Job(main=lambda: 0, command=["x"], num_processes=4, hostfile=str(tmp_path / "hosts"))
    reach, *rest = started_by_deepspeed(wanted, monkeypatch)
    assert rest == [wanted, ["node1"], "0,1,2,3"]
    assert reach[1:3] == ["-m", "deepspeed.launcher.runner"]
    assert "--num_gpus=1" in reach and reach[-1] == "--module"  # a watcher a node
    assert reach[reach.index("--master_port") + 1] == "30001"


@pytest.mark.parametrize(("visible", "devices"), [(None, "0,1"), ("5,3,1", "5,3,1"), ("", "")])
def test_gpus_that_are_visible_stay_so_under_deepspeed(monkeypatch, visible, devices):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = started_by_deepspeed(job(Path("x")), monkeypatch)
    assert found[2:] == ([socket.gethostname()], devices)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    node.share_machine(Word(["127.0.0.1"], 1, "secret", ["x"], 2, devices))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == devices


def started_by_deepspeed(wanted: Job, monkeypatch) -> tuple:
    """What is handed to `run_hosts`."""
    started = []
    monkeypatch.setattr(by_deepspeed, "run_hosts", lambda *args: started.append(args) or 5)
    assert LAUNCHERS.get("deepspeed")(wanted) == 5
    return started.pop()
