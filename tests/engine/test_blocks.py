# SPDX-License-Identifier: Apache-2.0
"""Repeated blocks are found in any network, and compiling them keeps names and numbers."""

import shutil

import pytest
import torch
from torch import nn

from diffnext.engine.blocks import compile_blocks, repeated_blocks
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
