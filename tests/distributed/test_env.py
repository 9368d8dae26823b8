# SPDX-License-Identifier: Apache-2.0
"""Who this process is, read from the variables that launchers set."""

import datetime

import pytest
import torch

from diffnext.distributed import env as processes
from diffnext.distributed import launched
from diffnext.distributed.mesh import make_mesh

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def as_worker(monkeypatch, **variables):
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"} | variables).items():
        monkeypatch.setenv(name, value)


def test_without_a_launcher_there_is_one_process():
    env = processes.init()
    assert (env.rank, env.world, env.is_main) == (0, 1, True)
    assert not launched.is_worker()
    assert processes.broadcast("x") == "x"
    assert torch.equal(processes.mean_over_ranks(torch.ones(2)), torch.ones(2))
    processes.barrier()
    for agree in (processes.agree, processes.agree_with_first):
        agree(None)
        with pytest.raises(FileNotFoundError, match="no file"):
            agree(FileNotFoundError("no file"))


def test_what_some_processes_meet_is_raised_on_all(monkeypatch):
    told = ["no disk", None, "no GPU", "no disk"]

    def gather(box, mine):
        assert mine is None  # of process 1
        box[:] = told

    monkeypatch.setattr(processes, "world_size", lambda: 4)
    monkeypatch.setattr(processes.dist, "all_gather_object", gather)
    with pytest.raises(ValueError) as error:
        processes.agree(None)
    assert str(error.value) == "no disk (met by rank 0, 3)\nno GPU (met by rank 2)"
    told[:] = [None] * 4
    processes.agree(None)


def test_what_the_first_process_meets_is_raised_on_all(monkeypatch):
    told = ["in use"]

    def broadcast(box, src):
        assert box == [None] and src == 0  # of process 1
        box[:] = told

    monkeypatch.setattr(processes, "world_size", lambda: 2)
    monkeypatch.setattr(processes.dist, "broadcast_object_list", broadcast)
    with pytest.raises(ValueError, match=r"^in use$"):
        processes.agree_with_first(None)
    told[:] = [None]
    processes.agree_with_first(None)


def test_a_launcher_s_worker_is_recognised(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert not launched.is_worker()
    as_worker(monkeypatch)
    assert launched.is_worker()


@pytest.mark.parametrize("name", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])  # torchrun, deepspeed
def test_a_contradiction_in_the_number_of_processes_names_both(monkeypatch, name):
    as_worker(monkeypatch, **{name: "2"})
    launched.check_count(2)
    with pytest.raises(
        ValueError, match=rf"NUM_GPUS is 4, .* 2 processes .*{name}.*set NUM_GPUS to 2"
    ):
        launched.check_count(4)


def test_a_single_process_is_not_compared():
    launched.check_count(8)


def test_a_mesh_of_one_process():
    processes.init_alone()
    try:
        assert make_mesh("cpu").mesh_dim_names == ("shard",)
        with pytest.raises(ValueError, match=r"replicate is 2; it must divide .* 1"):
            make_mesh("cpu", replicate=2)
    finally:
        processes.shutdown()


def test_processes_that_are_started_again_find_nothing_of_those_before(monkeypatch):
    kept = torch.distributed.HashStore()  # by torchrun, while it restarts its processes
    monkeypatch.setattr(processes.dist, "rendezvous", lambda *_, **__: iter([(kept, 0, 2)]))
    stores = []
    for attempt in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        stores.append(processes._store(0, 2, datetime.timedelta(seconds=1)))
    stores[0].set("address", "of a process that is gone")
    assert stores[0].check(["address"]) and not stores[1].check(["address"])


@pytest.mark.parametrize(("launcher", "index"), [(False, 3), (True, 1)])
def test_a_process_that_was_launched_takes_the_gpu_of_its_local_rank(monkeypatch, launcher, index):
    if launcher:
        as_worker(monkeypatch, WORLD_SIZE="1", LOCAL_RANK="1")
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert processes.init(gpu_id=3).device == torch.device("cuda", index)
    assert taken == [index]
