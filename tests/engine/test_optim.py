# SPDX-License-Identifier: Apache-2.0
"""Which parameters decay, and how an optimizer is found."""

import pytest
import torch

from diffnext.engine.optim import optimizer_class, optimizer_factory, param_groups
from tests.engine.toy import toy_net


def test_norm_layers_do_not_decay_and_frozen_parameters_do_not_move():
    net = toy_net()
    decayed, plain = param_groups(net, 0.02)
    names = {param: name for name, param in net.named_parameters()}
    assert {names[p] for p in plain["params"]} == {
        f"blocks.{i}.1.{kind}" for i in (0, 1) for kind in ("weight", "bias")
    }
    assert "blocks.0.0.bias" in {names[p] for p in decayed["params"]}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.02, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(names) - 1  # "scale" is frozen


def test_a_shared_parameter_is_stepped_once():
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert [len(group["params"]) for group in param_groups(net, 0.1)] == [3]


def test_adamw_has_the_published_settings():
    make = optimizer_factory("adamw", lr=1e-4, weight_decay=0.02, beta2=0.95)
    optimizer = make(toy_net())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert optimizer.defaults["fused"]


def test_optimizers_by_name_and_by_path():
    assert optimizer_class("sgd") is torch.optim.SGD
    assert optimizer_class("torch.optim:Adam") is torch.optim.Adam
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER is 'adamx'; there are .*'AdamW'"):
        optimizer_class("adamx")


def test_a_network_that_is_all_frozen_is_refused():
    net = toy_net().requires_grad_(False)
    with pytest.raises(ValueError, match="ToyNet has no parameter that learns"):
        optimizer_factory("adamw", lr=1.0, weight_decay=0.0, beta2=0.9)(net)
