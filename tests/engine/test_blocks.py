# SPDX-License-Identifier: Apache-2.0
"""Repeated blocks are found in any network, and compiling them keeps names and numbers."""

import shutil

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffnext.engine.backends import BACKENDS
from diffnext.engine.backends.base import local
from diffnext.engine.blocks import compile_blocks, recompute_blocks, repeated_blocks
from diffnext.engine.optim import optimizer_factory
from tests.engine.runs import ALONE
from tests.engine.toy import WIDTH, toy_net

COMPILER = pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch.compile needs a C++ compiler"
)


def test_blocks_of_the_outermost_lists_that_hold_parameters():
    inner = nn.ModuleList([nn.Linear(1, 1)])
    net = nn.ModuleDict(
        {"a": nn.ModuleList([inner, nn.ReLU()]), "b": nn.Sequential(nn.Linear(1, 1))}
    )
    assert repeated_blocks(net) == [inner]


@COMPILER
def test_compiled_blocks_compute_the_same_under_the_same_names():
    net, x = toy_net(), torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    names, expected = list(net.state_dict()), net(x)
    assert compile_blocks(net) == 2
    assert list(net.state_dict()) == names
    torch.testing.assert_close(net(x), expected)


def cost(keep):
    """Gradients of a network, and how many multiplications they took."""
    net, x = toy_net(), torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    names = list(net.state_dict())
    if keep is not None:
        assert recompute_blocks(net, keep) == 2
    assert list(net.state_dict()) == names
    with FlopCounterMode(display=False) as counter:
        net(x).square().sum().backward()
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return grads, counter.get_total_flops()


def test_what_is_kept_is_not_computed_again():
    grads, least = cost(None)
    for keep, forwards in ((["matmul", "attention"], 0), ([], 2)):
        found, flops = cost(keep)
        assert flops == least + forwards * 2 * 3 * WIDTH * WIDTH  # each block has one product
        for name, grad in grads.items():
            assert torch.equal(found[name], grad)


def trained(backend, change, steps=4):
    """Losses and weights of a short training, with blocks changed or not."""
    net = toy_net()
    net.scale.requires_grad_(False)
    change(net)
    spread = BACKENDS.get(backend)(ALONE, precision="float32")
    make = optimizer_factory("adamw", lr=1e-2, weight_decay=0.02, beta2=0.95)
    call = spread.add("student", net, make)
    losses = []
    for step in range(steps):
        x = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(step))
        with spread.micro("student", last=True):
            loss = (call(x) - x).square().mean()
            spread.backward("student", loss)
        spread.step("student", lr=1e-2, max_norm=1.0)
        losses.append(loss.item())
    weights = {name: local(value) for name, value in spread.weights("student").items()}
    return losses, weights


def unchanged(net):
    pass


def keeping_products(net):
    recompute_blocks(net, ["matmul"])


@pytest.mark.parametrize("backend", ["single", "ddp", "fsdp"])
@pytest.mark.parametrize(
    "change",
    [
        keeping_products,
        pytest.param(compile_blocks, marks=[pytest.mark.slow, COMPILER]),
    ],
)
def test_changed_blocks_train_alike_under_the_same_names(backend, change):
    losses, weights = trained("single", unchanged)
    found_losses, found = trained(backend, change)
    assert set(found) == set(weights)
    # compiled sums have another order; Adam's first steps magnify that
    torch.testing.assert_close(found_losses, losses, rtol=1e-4, atol=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
