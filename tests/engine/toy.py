# SPDX-License-Identifier: Apache-2.0
"""A family of networks small enough to reason about: a linear denoiser of one-frame latents."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from diffnext.data.schema import Batch
from diffnext.pipelines.train_base import Inputs, StepOutput, TrainPipeline

CHANNELS, SIZE = 2, 4
WIDTH = CHANNELS * SIZE * SIZE


class ToyNet(ModelMixin, ConfigMixin):
    """Residual linear blocks with norms; one parameter is frozen, one buffer is saved."""

    @register_to_config
    def __init__(self, depth: int = 2, width: int = WIDTH) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width), requires_grad=False)
        self.register_buffer("offset", torch.full((width,), 0.5))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in range(depth)
        )
        self.head = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.scale + self.offset
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class ToyPipeline(TrainPipeline):
    """Predict the latents from their noisy version."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    @property
    def model(self) -> nn.Module:
        return self.net

    def configure(self, *, checkpointing: int = 0) -> nn.Module:
        return self.net.train()

    def prepare(self, batch: Batch, *, draws) -> Inputs:
        mean = batch.moments.to(draws.device).float().chunk(2, dim=1)[0]
        return Inputs(mean, {}, batch, draws)

    def loss(self, net: nn.Module, inputs: Inputs) -> StepOutput:
        x0 = inputs.latents.flatten(1)
        noise = inputs.draws.stream("noise").randn(x0.size(1))
        error = (net(x0 + noise) - x0).float().square()
        loss = error.mean()
        return StepOutput(loss, {"loss_toy": loss.detach()}, error.detach().mean(1))


class ToyLoader:
    """Samples 0, 1, 2, ... of an endless epoch; every process takes its part of the global batch.

    Args:
        batch_size: samples of one micro-batch of one process.
        bad: samples whose values are all NaN.
    """

    def __init__(
        self, batch_size: int, *, rank: int = 0, world: int = 1, accum: int = 1, bad=()
    ) -> None:
        self.batch_size, self.rank, self.world, self.accum = batch_size, rank, world, accum
        self.bad = set(bad)
        self.micro = 0

    def __iter__(self) -> ToyLoader:
        return self

    def __next__(self) -> Batch:
        step, part = divmod(self.micro, self.accum)
        self.micro += 1
        local = self.batch_size * self.accum
        first = step * local * self.world + self.rank * local + part * self.batch_size
        return make_batch(range(first, first + self.batch_size), self.bad)

    def state_dict(self) -> dict:
        return {"micro": self.micro}

    def load_state_dict(self, state: dict) -> None:
        self.micro = state["micro"]


class ToyHeldOut:
    """Three batches of samples that the loader does not come to."""

    digest = "toy"

    def batches(self, rank: int, world: int):
        for number in range(rank, -(-3 // world) * world, world):
            first = 10**6 + 3 * (number % 3)
            yield make_batch(range(first, first + 3)), number < 3


def make_batch(indices, bad=frozenset()) -> Batch:
    """Samples by number."""
    rows = []
    for index in indices:
        generator = torch.Generator().manual_seed(index % 16)
        row = torch.randn(2 * CHANNELS, 1, SIZE, SIZE, generator=generator)
        rows.append(torch.full_like(row, torch.nan) if index in bad else row)
    index = torch.tensor(list(indices))
    return Batch(torch.stack(rows).half(), index, torch.zeros_like(index))


def toy_net(seed: int = 0) -> ToyNet:
    torch.manual_seed(seed)
    return ToyNet()
