# SPDX-License-Identifier: Apache-2.0
"""Which parameters decay, and how an optimizer is found."""

import sys

import pytest
import torch
from torch import nn

from diffnext.engine.backends.steps import set_lr
from diffnext.engine.optim import check_patterns, optimizer_class, optimizer_factory, param_groups
from tests.engine.toy import toy_net


def test_norm_layers_do_not_decay_and_frozen_parameters_do_not_move():
    net = toy_net()
    decayed, plain = param_groups(net, weight_decay=0.02)
    names = {param: name for name, param in net.named_parameters()}
    assert {names[p] for p in plain["params"]} == {
        f"blocks.{i}.1.{kind}" for i in (0, 1) for kind in ("weight", "bias")
    }
    assert "blocks.0.0.bias" in {names[p] for p in decayed["params"]}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.02, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(names) - 1  # "scale" is frozen


def names_that_decay(net, no_decay):
    names = {param: name for name, param in net.named_parameters()}
    groups = param_groups(net, weight_decay=0.1, no_decay=no_decay)
    return {names[p] for group in groups if group["weight_decay"] for p in group["params"]}


@pytest.mark.parametrize(
    ("no_decay", "decaying"),
    [
        (
            [],
            {"0.weight", "0.bias", "norm.weight", "norm.bias", "blocks.0.bias", "blocks.0.weight"},
        ),
        (["norm"], {"0.weight", "0.bias", "blocks.0.bias", "blocks.0.weight"}),
        (["bias"], {"0.weight", "norm.weight", "blocks.0.weight"}),
        (["norm", "bias"], {"0.weight", "blocks.0.weight"}),
        (["blocks"], {"0.weight", "0.bias", "norm.weight", "norm.bias"}),
        (["*.weight"], {"0.bias", "norm.bias", "blocks.0.bias"}),
    ],
)
def test_what_does_not_decay(no_decay, decaying):
    net = torch.nn.ModuleDict(
        {
            "0": torch.nn.Linear(2, 2),
            "norm": torch.nn.LayerNorm(2),
            "blocks": torch.nn.ModuleList([torch.nn.Linear(2, 2)]),
        }
    )
    assert names_that_decay(net, no_decay) == decaying
    net["0"].weight.no_weight_decay = True
    assert names_that_decay(net, no_decay) == decaying - {"0.weight"}


def test_factors_of_the_learning_rate_multiply():
    net = toy_net()
    net.head.bias.lr_scale = 2.0  # as a family of networks may mark its parameters
    groups = param_groups(
        net, weight_decay=0.02, lr_scale={"blocks": 0.5, "blocks.0": 0.1, "head.bias": 3}
    )
    names = {param: name for name, param in net.named_parameters()}
    scales = {names[p]: group["lr_scale"] for group in groups for p in group["params"]}
    assert scales["blocks.0.0.weight"] == scales["blocks.0.1.bias"] == pytest.approx(0.05)
    assert (scales["blocks.1.0.weight"], scales["head.bias"], scales["head.weight"]) == (0.5, 6, 1)


def test_a_scaled_parameter_moves_by_its_share():
    net = torch.nn.Linear(2, 2)
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    make = optimizer_factory(
        "sgd", lr=1.0, weight_decay=0.0, beta2=0.9, lr_scale={"bias": 0.25, "*": 2}
    )
    optimizer = make(net)
    set_lr(optimizer, 0.1)
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    torch.testing.assert_close(net.weight, start["weight"] - 0.2)
    torch.testing.assert_close(net.bias, start["bias"] - 0.05)


def test_a_pattern_that_matches_nothing_is_refused():
    check_patterns(toy_net(), ["blocks", "blocks.1", "*.bias", "head.weight"], key="K")
    with pytest.raises(
        ValueError, match=r"SOLVER\.LR_SCALE has 'block', which no parameter that lea"
    ):
        check_patterns(toy_net(), ["block"], key="SOLVER.LR_SCALE")


def test_a_shared_parameter_is_stepped_once():
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert [len(group["params"]) for group in param_groups(net, weight_decay=0.1)] == [3]


def test_adamw_has_the_published_settings():
    make = optimizer_factory("adamw", lr=1e-4, weight_decay=0.02, beta2=0.95)
    optimizer = make(toy_net())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert optimizer.defaults["fused"]


def make_sgd(**config):
    return optimizer_factory("SGD", lr=0.1, weight_decay=0.0, beta2=0.95, config=config)


def test_further_arguments_of_the_class_are_given_by_name():
    net, plain = nn.Linear(3, 1), nn.Linear(3, 1)
    plain.load_state_dict(net.state_dict())
    steps = make_sgd(momentum=0.9, nesterov=True)(net)
    by_hand = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for factor in (1.0, -2.0, 0.5):
        for one, optimizer in ((net, steps), (plain, by_hand)):
            (factor * one(torch.ones(3))).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(net.weight, plain.weight)
    assert not make_sgd(foreach=True)(net).defaults["fused"]  # torch takes one of the two
    make = optimizer_factory(
        "Adam", lr=1.0, weight_decay=0.0, beta2=0.95, config={"betas": [0.8, 0.99], "eps": 1e-6}
    )
    assert tuple(make(net).defaults["betas"]) == (0.8, 0.99) and make(net).defaults["eps"] == 1e-6


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"momentun": 0.9}, r"has 'momentun'; SGD takes \['momentum', 'dampening', 'nesterov',"),
        ({"lr": 1.0}, r"has 'lr', which SOLVER\.BASE_LR sets; take it out"),
        ({"weight_decay": 1.0}, r"has 'weight_decay', which SOLVER\.WEIGHT_DECAY sets"),
    ],
)
def test_arguments_that_the_class_does_not_take_are_refused(config, what):
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER_CONFIG " + what):
        make_sgd(**config)


@pytest.mark.parametrize("name", ["AdEMAMix8bit", "adamw8bit", "Lion8bit"])
def test_optimizers_of_8_bits_are_those_of_bitsandbytes(name, bitsandbytes):
    optimizer = optimizer_factory(name, lr=1e-2, weight_decay=0.1, beta2=0.95)(toy_net())
    assert type(optimizer).__name__.lower() == name.lower()
    assert isinstance(optimizer, bitsandbytes.optim.optimizer.Optimizer8bit)
    assert optimizer.defaults["betas"][:2] == (0.9, 0.95)
    with pytest.raises(
        ValueError, match=r"SOLVER\.OPTIMIZER is 'Adamx8bit'; there are .*'AdamW8bit'"
    ):
        optimizer_class("Adamx8bit")


def test_without_bitsandbytes_there_is_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match="need bitsandbytes: pip install bitsandbytes"):
        optimizer_class("adamw8bit")


def test_optimizers_by_name_and_by_path():
    assert optimizer_class("sgd") is torch.optim.SGD
    assert optimizer_class("torch.optim:Adam") is torch.optim.Adam
    assert optimizer_class("torch.optim.adam.Adam") is torch.optim.Adam
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER is 'adamx'; there are .*'AdamW'"):
        optimizer_class("adamx")
    with pytest.raises(ValueError, match=r"'collections\.OrderedDict', which is no torch"):
        optimizer_class("collections.OrderedDict")
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER 'a:B' cannot be imported"):
        optimizer_class("a.B")


def test_a_network_that_is_all_frozen_is_refused():
    net = toy_net().requires_grad_(False)
    with pytest.raises(ValueError, match="ToyNet has no parameter that learns"):
        optimizer_factory("adamw", lr=1.0, weight_decay=0.0, beta2=0.9)(net)
