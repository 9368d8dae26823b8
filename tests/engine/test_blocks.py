# SPDX-License-Identifier: Apache-2.0
"""Repeated blocks are found in any network, and compiling them keeps names and numbers."""

import shutil

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffnext.engine.blocks import compile_blocks, recompute_blocks, repeated_blocks
from tests.engine.toy import WIDTH, toy_net


def test_blocks_of_the_outermost_lists_that_hold_parameters():
    inner = nn.ModuleList([nn.Linear(1, 1)])
    net = nn.ModuleDict(
        {"a": nn.ModuleList([inner, nn.ReLU()]), "b": nn.Sequential(nn.Linear(1, 1))}
    )
    assert repeated_blocks(net) == [inner]


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
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
