# SPDX-License-Identifier: Apache-2.0
"""An orderly end: after the step, after the same one everywhere, when asked or when time is up."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from diffnext.distributed.env import Env
from diffnext.engine.checkpoint import newest
from diffnext.engine.hooks.base import Hook
from diffnext.engine.hooks.limit import TimeLimitHook
from diffnext.utils.metrics import read_rows
from tests.engine.runs import toy_run

ROOT = Path(__file__).parents[2]
TOGETHER = """
import datetime, sys
import torch, torch.distributed as dist
from diffnext.distributed.env import Env
from diffnext.engine.stop import StopVote
rank, world, asks_at = map(int, sys.argv[2:])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=world,
                        timeout=datetime.timedelta(seconds=600))
vote, step = StopVote(Env(rank, world, rank, torch.device("cpu"))), 0
while not vote.agreed:
    vote.ask()
    if rank == 1 and step == asks_at:
        vote.request = "SIGUSR1"  # in the middle of a step
    step += 1
    vote.hear()
print(step, vote.agreed)
dist.destroy_process_group()
"""


class Ask(Hook):
    """Asks for an end in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_loss(self, trainer, role, inputs, output):
        if trainer.step + 1 == self.step:
            trainer.request_stop("a test")
            trainer.request_stop("a second reason")


def test_the_step_is_finished_and_saved_and_the_run_goes_on_bit_for_bit(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    toy_run(whole).train()
    trainer = toy_run(cut)
    trainer.hooks.append(Ask(5))  # saves are due at 4 and 8, averages at 3, 6 and 8
    trainer.train()
    assert (trainer.step, trainer.stop.agreed) == (5, "a test")
    assert newest(cut).step == 5
    assert len(read_rows(cut / "metrics.jsonl")) == 5
    again = toy_run(cut)
    again.train()
    assert [r["loss"] for r in read_rows(cut / "metrics.jsonl")] == [
        r["loss"] for r in read_rows(whole / "metrics.jsonl")
    ]
    assert newest(cut).step == 8


def test_a_process_that_was_asked_takes_the_others_along(tmp_path):
    command = [sys.executable, "-c", TOGETHER, str(tmp_path / "store")]
    running = [
        subprocess.Popen([*command, str(rank), "2", "3"], cwd=ROOT, stdout=-1, text=True)
        for rank in range(2)
    ]
    first, second = (process.communicate()[0] for process in running)
    # asked in step 4, when that step's question was already under way
    assert first == "5 process 1 was asked to\n"
    assert second == "5 SIGUSR1\n" or second.endswith("\n5 SIGUSR1\n")


@pytest.mark.parametrize(("hours", "steps"), [(0.0, 8), (1e-9, 1), (1.0, 8)])
def test_a_time_limit_ends_the_run_in_order(tmp_path, hours, steps):
    trainer = toy_run(tmp_path)
    trainer.hooks.insert(0, TimeLimitHook(hours))
    trainer.train()
    assert trainer.step == newest(tmp_path).step == steps
    assert ("MAX_HOURS" in trainer.stop.agreed) == (steps == 1)


def test_a_time_limit_counts_from_the_start_of_the_process(tmp_path):
    env = Env(0, 1, 0, torch.device("cpu"), began=time.monotonic() - 3600)
    trainer = toy_run(tmp_path, env=env)
    trainer.hooks.insert(0, TimeLimitHook(0.99))
    trainer.train()
    assert trainer.step == 1
