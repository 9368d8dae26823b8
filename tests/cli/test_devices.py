# SPDX-License-Identifier: Apache-2.0
"""What a command takes of its node, alone and beside others that torchrun or srun started."""

import pytest
import torch

from diffnext.cli.devices import pick_device, pick_workers
from diffnext.cli.ranks import COUNTS, LOCAL_COUNTS, LOCAL_RANKS, is_one_of_many, local_rank

TORCHRUN = {"WORLD_SIZE": "8", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4"}
SRUN = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "2", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}


@pytest.fixture(autouse=True)
def node(monkeypatch):
    """A node of 16 cores and 2 GPUs, on which nobody started anything."""
    for name in (*COUNTS, *LOCAL_RANKS, *LOCAL_COUNTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(16), raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_alone():
    assert not is_one_of_many()
    assert pick_device("auto", "auto") == ("cuda:0", torch.float16)
    assert pick_device("cuda:1", "bf16") == ("cuda:1", torch.bfloat16)
    assert (pick_workers("cuda:0"), pick_workers("cpu")) == (16, 4)


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN, {**TORCHRUN, "LOCAL_RANK": "0"}])
def test_each_process_takes_the_device_of_its_number(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_one_of_many()
    assert local_rank() in (0, 2)
    assert pick_device("auto", "fp32") == ("cuda:0", torch.float32)  # 2 of 2 is the first again
    assert (pick_workers("cuda:0"), pick_workers("cpu")) == (4, 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("cuda", "fp32")[0] == "cuda:1"
    assert pick_device("cuda:0", "fp32")[0] == "cuda:0"  # as asked


def test_one_task_of_a_batch_job_is_alone(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("WORLD_SIZE", "")
    assert not is_one_of_many()
