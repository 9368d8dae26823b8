# SPDX-License-Identifier: Apache-2.0
"""A step of the training of an autoencoder."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from diffnext.engine.vae.loop import Settings, Trainer
from tests.pipelines.tiny import t2i


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_loss_of_a_step_is_there_in_each_precision(dtype):
    settings = Settings(
        steps=10,
        lr=1e-3,
        kl_weight=1e-6,
        adversarial_weight=0.1,
        adversarial_start=0,
        ema=0.99,
        seed=1,
    )
    trainer = Trainer(
        t2i().vae,
        SimpleNamespace(lengths=(1,)),
        settings,
        described={},
        device=torch.device("cpu"),
        dtype=dtype,
    )
    generator = torch.Generator().manual_seed(0)
    metrics = trainer.step(torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1)
    parts = ("reconstruction", "kl", "adversarial", "discriminator")
    assert {f"loss/{part}" for part in parts} <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
