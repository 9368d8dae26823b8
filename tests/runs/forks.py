# SPDX-License-Identifier: Apache-2.0
"""Starts trainings as forks of one process that has imported everything, and kills them where told to."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.children import wait
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
RUN_S = 240.0  # a run takes seconds


class Server:
    """Runs `scripts/train.py` in forks; importing torch once is what makes many runs affordable."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.runs.forks"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=env, cwd=ROOT, text=True, **pipes)

    def train(
        self,
        *arguments: object,
        log: Path,
        world: int = 1,
        kill_at: int = 0,
        kill_in_step: int = 0,
        disk: tuple[Path, int] | None = None,
        largest: int = 0,
        folder: Path = ROOT,
    ) -> list[int]:
        """Run to the end, or until the first process is killed; return the exit codes.

        A process that was killed has code -9; the others are killed with it.

        Args:
            kill_at: number of the event: writes that reach the disk, renames, removals and steps.
            kill_in_step: number of the step among those of this process.
            disk: a folder that is a disk of so many bytes, for this run only.
            largest: bytes of the longest file that the last process can write; 0 for no limit.
            folder: that it runs in.
        """
        job = {"argv": list(map(str, arguments)), "log": str(log), "world": world}
        job |= {"kill_at": kill_at, "kill_in_step": kill_in_step}
        job |= {"largest": largest, "folder": str(folder)}
        job["disk"] = disk and [str(disk[0]), disk[1]]
        if self.process.poll() is not None:  # it was ended with a test that hung
            self._start()
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=120)


def serve() -> None:
    """Answer jobs, a line each, until the input ends."""
    import torch

    from diffnext.engine.build import build_trainer, make_plan  # noqa: F401  all that a run imports
    from tests.runs.test_overfit import train

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        port = free_port()
        children = []
        for rank in range(job["world"]):
            child = os.fork()
            if child == 0:
                _work(job, rank, port, train)
            children.append(child)
        print(json.dumps(wait(children, limit_s=RUN_S)), flush=True)


def _work(job: dict, rank: int, port: int, train) -> None:
    """Be one process of a run; never returns."""
    code = 99
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(job["folder"])
        if job["world"] > 1:
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
            values = (rank, rank, job["world"], job["world"])
            os.environ |= dict(zip(names, map(str, values), strict=True))
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if job["disk"]:
            mount(*job["disk"])
        if rank == job["world"] - 1 and job["largest"]:
            _limit(job["largest"])
        if rank == 0:
            _arm(job["kill_at"], job["kill_in_step"])
        code = train(*job["argv"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _arm(event: int, step: int) -> None:
    """Let this process kill itself at an event, in whatever thread that is, or in a step; 0 for never."""
    import shutil

    from diffnext.engine.trainer import Trainer

    def counted(function, left):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    events = [event]
    for place, name in (
        (os, "fsync"),
        (os, "rename"),
        (os, "replace"),
        (shutil, "rmtree"),
        (Trainer, "train_step"),
    ):
        setattr(place, name, counted(getattr(place, name), events))
    Trainer.train_step = counted(Trainer.train_step, [step])


def _limit(size: int) -> None:
    """Let this process write no file that is longer."""
    import resource  # POSIX only

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def mount(folder: str, size: int) -> None:
    """Put an empty disk of so many bytes at a folder, seen by this process alone.

    Raises:
        PermissionError: the system does not permit it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x20000, 0x40000 | 0x4000  # CLONE_NEWNS; MS_PRIVATE | MS_REC
    failed = (
        libc.unshare(new_namespace)
        or libc.mount(b"none", b"/", None, ctypes.c_ulong(private), None)
        or libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(0), b"size=%d" % size)
    )
    if failed:
        raise PermissionError(ctypes.get_errno(), "no disk can be mounted here")


if __name__ == "__main__":
    serve()
