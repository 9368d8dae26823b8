# SPDX-License-Identifier: Apache-2.0
"""Muon against the singular value decomposition, and its AdamW against torch's."""

import pytest
import torch
from torch import nn

from diffnext.engine.muon import RMS, Muon, inner_matrices, orthogonal
from diffnext.engine.optim import optimizer_factory


@pytest.mark.parametrize("shape", [(24, 48), (16, 64), (64, 16)])
def test_singular_values_come_to_lie_near_one(shape):
    matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.3 and values.max() < 1.4  # what five steps of the polynomial reach


def test_directions_are_those_of_the_decomposition():
    matrix = torch.randn(12, 40, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    cosine = nn.functional.cosine_similarity(orthogonal(matrix).flatten(), (u @ v).flatten(), dim=0)
    assert cosine > 0.97


def test_groups_without_muon_step_as_adamw():
    ours, theirs = (nn.Parameter(torch.arange(12.0).view(3, 4)) for _ in range(2))
    options = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizers = [Muon([ours], **options), torch.optim.AdamW([theirs], **options)]
    for step in range(5):
        for param, optimizer in zip((ours, theirs), optimizers, strict=True):
            param.grad = torch.cos(param.detach() + step)
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # float32, another order


def test_a_step_of_muon_is_as_long_as_one_of_adamw():
    param = nn.Parameter(torch.zeros(64, 256))
    param.grad = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    Muon([{"params": [param], "muon": True}], lr=0.1).step()
    rms = param.detach().square().mean().sqrt().item()
    assert rms == pytest.approx(0.1 * RMS, rel=0.25)


def test_equal_shapes_are_stepped_together_as_each_alone():
    together = [nn.Parameter(torch.zeros(8, 16)) for _ in range(3)]
    alone = [nn.Parameter(torch.zeros(8, 16)) for _ in range(3)]
    for i, params in enumerate(zip(together, alone, strict=True)):
        for param in params:
            param.grad = torch.randn(8, 16, generator=torch.Generator().manual_seed(i))
    Muon([{"params": together, "muon": True}], lr=0.1).step()
    for param in alone:
        Muon([{"params": [param], "muon": True}], lr=0.1).step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)  # bfloat16 products


def test_only_matrices_within_blocks_go_to_muon():
    net = nn.Module()
    net.embed = nn.Linear(4, 8)
    net.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(2))
    optimizer = optimizer_factory("muon", lr=0.1, weight_decay=0.01, beta2=0.9)(net)
    chosen = [g for g in optimizer.param_groups if g["muon"]]
    assert [set(g["params"]) for g in chosen] == [{block[0].weight for block in net.blocks}]
    assert inner_matrices(net, net.blocks) == {block[0].weight for block in net.blocks}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(net.parameters()))


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"Muon takes matrices, found.*\(3,\)"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))], "muon": True}])
