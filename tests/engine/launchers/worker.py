# SPDX-License-Identifier: Apache-2.0
"""A process of a run that does nothing but meet the other one, until something happens to one of them.

`worker.py KIND FOLDER` is a process, `worker.py start KIND FOLDER` starts two, as a launcher would, and
`worker.py node RANK KIND FOLDER` one of them, as on a node of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from diffnext.distributed import launched
from diffnext.engine.heartbeat import FOLDER, Beat, Heartbeat, read_beats
from diffnext.engine.launchers import peers
from diffnext.engine.signals import ECHO_S, on_signals
from diffnext.utils.files import replacing

STEPS, BAD_STEP = 400, 3
LIMIT_S, HANG_S = 600.0, 4.0  # how long a step may take; of the one that is to be found
FOR_EVER_S = 600.0
ASKED_AHEAD = 2  # steps from a request to the end: by then the other process has read of it


def wait_for_sign(heart: Heartbeat, said: Callable[[Beat], bool]) -> None:
    """Until the last sign of life of this process says something."""
    rank = heart.beat.rank
    while not any(said(beat) for beat in read_beats(heart.folder) if beat.rank == rank):
        time.sleep(0.01)


def go_wrong(kind: str) -> None:
    if kind == "exit":
        os._exit(3)
    if kind == "raise":
        raise OSError("the disk is gone")
    if kind == "sleep":
        time.sleep(FOR_EVER_S)
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}[kind])


def meet_by_files(folder: Path) -> Callable[[int], None]:
    """Wait for the other process in each step; with no more than Python, so that tests are quick."""
    rank = launched.rank()

    def meet(step: int) -> None:
        (folder / f"met{rank}").write_text(f"{step:4}")
        other = folder / f"met{1 - rank}"
        while not other.exists() or int(other.read_text() or 0) < step:
            if os.environ.get("NOTICES") and is_gone(folder / f"pid{1 - rank}"):
                time.sleep(0.5)  # this takes its time, as the news of other nodes do
                raise RuntimeError("connection closed by peer")
            time.sleep(0.01)

    return meet


def is_gone(path: Path) -> bool:
    """Whether the process of a file is; only its parent sees more of it."""
    pid = path.read_text() if path.exists() else ""
    return bool(pid) and psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE


def introduce(folder: Path) -> None:
    """As a run of several nodes does: all launchers get the word of the first process's."""
    shared = folder / "word"
    if launched.rank() == 0:
        with replacing(shared, durable=False) as draft:
            draft.write_text(peers.own_word())
    while not shared.exists():
        time.sleep(0.01)
    peers.put_first(shared.read_text())


def meet_by_gloo() -> Callable[[int], None]:
    from diffnext.distributed import env as processes

    processes.init()
    return lambda step: processes.barrier()


def read_asked(folder: Path) -> list[int]:
    """The steps in which processes were asked for an end."""
    return [int(path.read_text() or STEPS) for path in folder.glob("asked?")]


def main(kind: str, folder: Path) -> int:
    """Go wrong in step BAD_STEP of rank 1; "save" ends in order, and takes its time, "save_on" all of it.

    "refuse" ends both with code 2 before they begin, "refuse_alone" one of them.
    """
    rank, last = launched.rank(), STEPS - 1
    with Heartbeat(rank) as heart:
        if kind.startswith("refuse"):
            (folder / f"pid{rank}").write_text(str(os.getpid()))
            time.sleep(FOR_EVER_S * (kind == "refuse_alone" and rank == 0))
            heart.end(2)
            return 2
        meet = meet_by_gloo() if "GLOO" in os.environ else meet_by_files(folder)
        if peers.own_word():
            introduce(folder)
        heart.train(lambda: "loss", logs=folder)
        wait_for_sign(heart, lambda beat: beat.state == "training")
        (folder / f"pid{rank}").write_text(str(os.getpid()))

        def ask(name: str) -> None:
            heart.stopping()
            (folder / f"asked{rank}").write_text(str(step))

        step = 0
        with on_signals(ask, echo_s=ECHO_S):
            for step in range(1, STEPS):
                bad = step == BAD_STEP and not kind.startswith("save")
                hangs = bad and kind in ("sleep", "freeze")
                heart.move(step, limit_s=HANG_S if hangs else LIMIT_S)
                if bad and rank == 1:
                    wait_for_sign(heart, lambda beat: beat.step == BAD_STEP)
                    go_wrong(kind)
                meet(step)
                time.sleep(0.05)
                last = min([last, *(ASKED_AHEAD + asked for asked in read_asked(folder))])
                if step == last:
                    break
            heart.move(step, limit_s=LIMIT_S)
            if rank == 0:
                time.sleep({"save": 3.0, "save_on": FOR_EVER_S}.get(kind, 0.0))
            (folder / f"saved{rank}").touch()
        heart.end(0)
    return 0


def start(arguments: list[str], ranks: str = "01") -> int:
    """Start some; note their exit codes, and return that of the first that fails."""
    running = {}
    for local, rank in enumerate(ranks):
        number = {"RANK": rank, "LOCAL_RANK": str(local), "WORLD_SIZE": "2"}
        command = [sys.executable, __file__, *arguments]
        running[rank] = subprocess.Popen(command, env=os.environ | number)
    codes = dict.fromkeys(running)
    while not any(codes.values()) and None in codes.values():
        codes = {rank: process.poll() for rank, process in running.items()}
        time.sleep(0.05)
    found = {rank: code for rank, code in codes.items() if code}
    Path(os.environ[FOLDER], "codes.json").write_text(json.dumps(found))
    for process in running.values():
        process.wait()
    return next((code % 256 for code in found.values()), 0)


if __name__ == "__main__":
    if sys.argv[1] == "start":
        sys.exit(start(sys.argv[2:]))
    if sys.argv[1] == "node":
        sys.exit(start(sys.argv[3:], ranks=sys.argv[2]))
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
