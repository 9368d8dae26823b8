# SPDX-License-Identifier: Apache-2.0
"""What the stand-in for a GPU refuses, and what it notes, so that the tests with it can fail."""

from __future__ import annotations

import pytest
import torch

from tests.device.gpu import DEVICE, gpu

ONES = torch.ones(4)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda there: there + ONES,
        lambda there: torch.cat([there, ONES]),
        lambda there: there.gather(0, torch.zeros(1, dtype=torch.int64)),
        lambda there: torch.stack([there.sum(), ONES.sum()]),
        lambda there: torch.randn(2, device=DEVICE, generator=torch.Generator()),
    ],
)
def test_operands_on_two_devices_are_refused(mistake):
    with gpu(), pytest.raises(RuntimeError, match="cuda"):
        mistake(ONES.to(DEVICE))


@pytest.mark.parametrize(
    ("work", "waits"),
    [
        (lambda there: there.sum().item(), ["a value is read"]),
        (lambda there: bool(there.isnan().any()), ["a value is read"]),
        (lambda there: ONES.to(DEVICE), ["(4,) from cpu to cuda:0, plain memory, free False"]),
        (lambda there: there.cpu(), ["(4,) from cuda:0 to cpu, plain memory, free False"]),
        (lambda there: there[torch.tensor([1, 2])], ["cuda:0 is indexed from cpu"]),
        (lambda there: torch.ones(4, pin_memory=True).to(DEVICE, non_blocking=True), []),
        (lambda there: there * torch.tensor(2.0) + torch.zeros(4, device=DEVICE), []),
    ],
)
def test_what_the_host_waits_for_is_noted(work, waits):
    with gpu() as watch:
        there = ONES.to(DEVICE)
        watch.waits.clear()
        work(there)
        assert watch.waits == waits
