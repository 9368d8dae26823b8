# SPDX-License-Identifier: Apache-2.0
"""The estimate of memory against bytes that were counted."""

import pytest
import torch

from diffnext.engine import memory
from diffnext.engine.memory import Need, estimate, pinned_bytes, shortage, state_bytes
from diffnext.engine.optim import optimizer_factory
from diffnext.engine.sharding import Sharding, sharding_of
from tests.engine.runs import toy_run
from tests.engine.toy import ToyNet


def factory(name="AdamW"):
    return optimizer_factory(name, lr=1.0, weight_decay=0.0, beta2=0.9)


def size(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t.numel() > 1)


def test_one_process_against_a_real_run(tmp_path):
    trainer = toy_run(tmp_path, decays=(0.9, 0.99))
    trainer.train_step()
    learner = trainer.backend.learners["student"]
    with torch.device("meta"):
        net = ToyNet()
    net.scale.requires_grad_(False)
    need = estimate(net, factory(), Sharding("single", 1, "bfloat16"), averages=2, activations=7)
    params = list(learner.net.parameters())
    averages = [t for part in trainer.hooks[1].ema.parts().values() for t in part.values()]
    assert need.weights == size(params) + size(learner.net.buffers())
    assert need.gradients == size(p for p in params if p.requires_grad)
    assert need.optimizer == size(trainer.backend.optimizer_state("student").values())
    assert need.average == size(averages)
    parts = (need.weights, need.gradients, need.optimizer, need.average, need.activations)
    assert need.total == need.on_device == sum(parts)


@pytest.mark.parametrize(
    ("gpu", "host", "processes", "mib", "short"),
    [
        (True, (), 8, 100, True),
        (True, (), 8, 101, False),
        (True, ("average",), 8, 61, False),
        (True, ("average", "optimizer"), 8, 30, True),
        (True, ("average", "optimizer"), 8, 31, False),
        (False, ("average",), 2, 200, True),  # they share the machine
        (False, ("average",), 2, 201, False),
        (False, (), 1, 0, False),  # not known
    ],
)
def test_what_a_device_cannot_hold(monkeypatch, gpu, host, processes, mib, short):
    need = Need(*(part * 2**20 for part in (9, 1, 15, 5, 30, 40, 0)), host=host)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(memory, "capacity_bytes", lambda: mib * 2**20)
    told = shortage(need, processes=processes)
    assert bool(told) == short
    assert not short or f"has {mib:.1f} MiB, too few for {mib:.1f} MiB" in told


def test_a_copy_for_each_process_is_named_as_the_reason(monkeypatch):
    monkeypatch.setattr(memory, "capacity_bytes", lambda: 1)
    need = Need(9, 0, 0, 0, 0, 0)
    alone, split = (Sharding("fsdp", 8, "bfloat16", replicate=n) for n in (8, 4))
    assert "replicate 8 of 8 processes splits nothing" in shortage(
        need, processes=8, sharding=alone
    )
    assert "splits nothing" not in shortage(need, processes=8, sharding=split)
    whole = shortage(need, processes=8, sharding=Sharding("ddp", 8, "bfloat16"))
    assert "ddp holds the whole run in each process, PARALLEL.BACKEND fsdp splits it" in whole


def test_the_machine_tells_its_memory():
    assert memory.capacity_bytes() > 2**28


@pytest.mark.parametrize(("name", "size"), [("AdamW", 8), ("SGD", 0), ("Adagrad", 4)])
def test_state_of_an_optimizer(name, size):
    assert state_bytes(factory(name)) == size


HOST = {"device": "cpu"}
SMALL = {  # in numbers: half of the network below, and a quarter
    "reduce_bucket_size": 64 * 32,
    "stage3_prefetch_bucket_size": 64 * 16,
}


@pytest.mark.parametrize(
    ("backend", "options", "on_device", "on_host"),
    [
        ("ddp", {}, 4 + 4 + 8 + 4, 0),  # the last gradient is not in its bucket yet
        # one layer, gathered whole; its gradients, and once more to be sent
        ("fsdp", {}, 4 + 8 + (4 + 4 + 8) / 4, 0),
        ("fsdp", {"gather_dtype": "bfloat16"}, 2 + 2 + 4 + (4 + 4 + 8) / 4, 0),
        ("fsdp", {"replicate": 4}, 4 + 8 + 4 + 4 + 8, 0),
        ("fsdp", {"replicate": 2}, 4 + 8 + (4 + 4 + 8) / 2, 0),
        ("fsdp", {"offload": True}, 4 + 8, (4 + 4 + 8) / 4),
        # bfloat16 network and gradients, float32 rest split; bucket, own part, all laid flat
        ("deepspeed", {"stage": 0}, 4 + 4 + 8 + 4, 0),
        ("deepspeed", {"stage": 1}, 2 + 2 + 12 / 4 + 2 * (1 / 2 + 1 / 4), 0),
        ("deepspeed", {"stage": 1, "overlap_comm": True}, 2 + 2 / 4 + 12 / 4 + 2 * (1 + 1), 0),
        ("deepspeed", {"stage": 2}, 2 + 2 / 4 + 12 / 4 + 2 * (1 / 2 + 1), 0),
        ("deepspeed", {"stage": 2, "overlap_comm": True}, 2 + 2 / 4 + 12 / 4 + 2 * (1 + 1), 0),
        ("deepspeed", {"stage": 2, "contiguous_gradients": False}, 2 + 2 / 4 + 12 / 4 + 2, 0),
        (
            "deepspeed",  # the host has gradients in float32, and weights to be sent back
            {"stage": 2, "offload_optimizer": HOST},
            2 + 2 * (1 / 2 + 1 + 1),
            (2 + 4 + 12) / 4,
        ),
        ("deepspeed", {"stage": 3}, 2 * (1 + 1 / 4) + 16 / 4 + 2 * (1 / 2 + 1), 0),
        (
            "deepspeed",
            {"stage": 3, "stage3_max_live_parameters": 0},
            2 + 16 / 4 + 2 * (1 / 2 + 1),
            0,
        ),
        (
            "deepspeed",
            {"stage": 3, "offload_optimizer": HOST, "offload_param": HOST},
            2 * (1 + 1 / 4) + 2 * (1 / 2 + 1 + 1),
            (2 + 2 + 4 + 12) / 4,
        ),
    ],
)
def test_what_is_split_over_four_processes(backend, options, on_device, on_host):
    net = torch.nn.Linear(64, 64, bias=False)
    if backend == "deepspeed":
        options = {"config": {"zero_optimization": SMALL | options}}
    sharding = sharding_of(backend, options, world=4, precision="bfloat16")
    need = estimate(net, factory(), sharding, averages=0)
    assert need.on_device == on_device * 64 * 64
    assert need.on_host == on_host * 64 * 64


def test_copies_of_gradients_in_the_update_count_beyond_activations():
    zero = {"stage": 2, "reduce_bucket_size": 1, "contiguous_gradients": False}
    options = {"config": {"zero_optimization": zero}}
    sharding = sharding_of("deepspeed", options, world=1, precision="bfloat16")
    net, size = torch.nn.Linear(64, 64, bias=False), 64 * 64
    held = [
        estimate(net, factory(), sharding, averages=0, activations=kept * size).buffers / size
        for kept in (0, 1, 9)
    ]
    assert held == [2 + 4, 2 + 4 - 1, 2]


@pytest.mark.parametrize("size", ["auto", float("inf")])
def test_a_size_that_is_no_number_is_refused(size):
    options = {"config": {"zero_optimization": {"stage": 2, "reduce_bucket_size": size}}}
    told = rf"reduce_bucket_size {size!r}, wanted a number such as 5"
    with pytest.raises(ValueError, match=told):
        sharding_of("deepspeed", options, world=2, precision="bfloat16")


@pytest.mark.parametrize(("backend", "carried"), [("ddp", 2**14 / 4), ("fsdp", 2**12)])
def test_what_carries_weights_to_an_average_on_the_host_is_rounded_up(backend, carried):
    net, sharding = torch.nn.Linear(48, 48, bias=False), Sharding(backend, 4, "float32")
    need = estimate(net, factory(), sharding, averages=2, average_on_host=True)
    assert need.average == 2 * 4 * 48 * 48 / 4 + carried
    assert [pinned_bytes(size) for size in (0, 1, 4096, 4097)] == [0, 1, 4096, 8192]


def test_fsdp_gathers_what_is_outside_blocks_and_two_of_them():
    net = ToyNet(depth=6, width=32)
    block, rest = 32 * 32 + 32 + 64, 32 + 32 * 32 + 32
    make = factory()
    for reshard, held in ((True, rest + 2 * block), (False, rest + 6 * block)):
        need = estimate(net, make, Sharding("fsdp", 4, "float32", reshard=reshard))
        assert need.gathered == 4 * held
        assert need.buffers == 4 * (2 * block + rest)  # two blocks' gradients are on their way


def test_fsdp_keeps_whole_gradients_between_micro_batches():
    net = torch.nn.Sequential(torch.nn.ModuleList([torch.nn.Linear(64, 64, bias=False)]))
    one, two = (
        estimate(net, factory(), Sharding("fsdp", 4, "bfloat16", accum_steps=count))
        for count in (1, 2)
    )
    assert two.total - one.total == 4 * 64 * 64
