# SPDX-License-Identifier: Apache-2.0
"""A run on two nodes, which are two network namespaces of this machine: each sees the other by a cable."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffnext.utils.metrics import read_rows
from tests.runs.test_overfit import SCRIPT, train
from tests.runs.tiny_nova import make_run

ADDRESSES = ("10.213.77.1", "10.213.77.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def two_nodes() -> Iterator[list[str]]:
    """Names of two network namespaces with a cable between them."""
    names = [f"dn{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        cable = ["type", "veth", "peer", "name", "eth0", "netns", names[1]]
        ip("link", "add", "eth0", "netns", names[0], *cable)
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.fixture(scope="module")
def nodes():
    try:
        with two_nodes() as names:
            yield names
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        pytest.skip(f"network namespaces cannot be made here: {reason}")


def start(node: str, rank: int, *arguments: str) -> subprocess.Popen:
    where = ["--nnodes", "2", "--node-rank", str(rank), "--master-addr", ADDRESSES[0]]
    command = [sys.executable, str(SCRIPT), *where, "--master-port", "29611", *arguments]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"}
    return subprocess.Popen(
        ["ip", "netns", "exec", node, *command],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_nodes_train_like_one_process_and_end_together(nodes, tmp_path):
    config = make_run(tmp_path, "t2i")
    assert train("--cfg", str(config), "--exp-dir", str(tmp_path / "one")) == 0
    arguments = ["--cfg", str(config), "--exp-dir", str(tmp_path / "two"), "TRAIN.BATCH_SIZE", "2"]
    arguments += ["SOLVER.MAX_STEPS", "100000", "SOLVER.SNAPSHOT_EVERY", "100000"]
    running = [start(node, rank, *arguments) for rank, node in enumerate(nodes)]
    wait_for_step(tmp_path / "two/logs/metrics.jsonl", 12, running)
    running[1].send_signal(signal.SIGTERM)  # ends both after the same step
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(outputs)
    assert "process 1 was asked to" in outputs[0]
    one, two = (read_rows(tmp_path / name / "logs/metrics.jsonl") for name in ("one", "two"))
    assert [r["loss"] for r in two[:6]] == pytest.approx([r["loss"] for r in one], rel=1e-4)
    assert (tmp_path / f"two/checkpoints/tiny_iter_{two[-1]['step']}/complete.json").exists()


def wait_for_step(path: Path, step: int, running: list[subprocess.Popen]) -> None:
    while len(read_rows(path)) < step and all(process.poll() is None for process in running):
        time.sleep(0.2)
