# SPDX-License-Identifier: Apache-2.0
"""What training asks of a family of networks: read a batch, condition the network, say the loss.

A training pipeline knows what a record means to its family. It owns no optimizer, no wrapper and no
loop; the network that `loss` evaluates is handed in, so that the same code serves a bare network, a
wrapped one, an average of weights or a teacher.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffnext.data.schema import Batch
from diffnext.utils.seeding import Draws


@dataclass(frozen=True)
class Inputs:
    """A batch made ready for the network, on its device."""

    latents: Tensor  # (B, C, T, H, W), scaled as the network expects; T = 1 for pictures
    cond: Mapping[str, object]  # what the family conditions on: embeddings, labels, motion
    batch: Batch  # what it was made from
    draws: Draws  # the random numbers of these samples


@dataclass(frozen=True)
class StepOutput:
    """What a network minimises on one micro-batch."""

    loss: Tensor  # scalar, weights applied: what backward gets
    metrics: Mapping[str, Tensor]  # detached scalars for the log
    per_sample: Tensor | None = None  # (B,) detached: the loss of each sample; their mean is `loss`


@dataclass(frozen=True)
class Expected:
    """What a network of some configuration is made for; None where it takes anything."""

    channels: int | None = None  # C of the latents
    size: tuple[int, int] | None = None  # (H, W) of the latents
    text_width: int | None = None  # D of prompt embeddings
    text_length: int | None = None  # L of prompts; longer ones are cut
    frames: int | None = None  # T of the latents that positions are made for; 1: pictures alone
    classes: int | None = None  # labels count from 0 to below this


@dataclass(frozen=True)
class Grid:
    """Where the loss of held-out samples is measured; a family takes of it what it knows."""

    timesteps: Sequence[float]  # as the network is told them, 0 to 1000; 1000 is noise
    mask_ratios: Sequence[float]  # shares of hidden tokens, above 0 to 1


class TrainPipeline(ABC):
    """One family of networks at training time: what it reads, what it freezes, its own objective."""

    trained: ClassVar[str] = "transformer"  # the component that learns; its folder in a checkpoint
    reads: ClassVar[tuple[str, ...]] = ("moments",)  # record fields; checked before the first step

    @classmethod
    def expects(cls, config: Mapping[str, Any]) -> Expected:
        """What data fits a network with this configuration; asked before anything is loaded."""
        return Expected()

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The network that learns."""

    @abstractmethod
    def configure(self, *, checkpointing: int = 0) -> nn.Module:
        """Freeze what the task freezes, set activation checkpointing; return the network, in train mode.

        Args:
            checkpointing: 0 (none) to 3 (most): how much of the forward is computed again in backward.
        """

    @abstractmethod
    def prepare(self, batch: Batch, *, draws: Draws) -> Inputs:
        """Sample the posterior, scale it, embed the conditions, drop some of them. No gradient.

        Args:
            batch: its moments on the device of the network, the conditions on the CPU.
            draws: the random numbers of these samples, on the device of the network.
        """

    @abstractmethod
    def loss(self, net: nn.Module, inputs: Inputs) -> StepOutput:
        """The family's own objective, evaluated with `net`. Draws from `inputs.draws` alone."""

    @torch.no_grad()
    def evaluate(
        self, net: nn.Module, batch: Batch, *, draws: Draws, grid: Grid
    ) -> dict[str, Tensor]:
        """Losses of samples that are not trained on: "loss" of all together, and parts of it.

        This one is the training loss without gradient, at levels that it draws itself.

        Args:
            net: what is evaluated, in eval mode.
            batch: as for `prepare`.
            draws: all that is random; with the same ones, two networks meet the same noise.
            grid: where to measure.

        Returns:
            (B,) each, by the names of curves.
        """
        losses = self.loss(net, self.prepare(batch, draws=draws)).per_sample
        if losses is None:
            raise ValueError(f"{type(self).__name__} tells no losses of samples; set EVAL.EVERY 0")
        return {"loss": losses}

    def noise_levels(self, shape: Sequence[int], draws: Draws) -> Tensor | None:
        """Share of noise, from 0 to 1, in all that the loss of these samples is computed on.

        Found from their random numbers alone, as the loss draws them.

        Args:
            shape: (B, C, T, H, W) of the latents.
            draws: the random numbers of the samples.

        Returns:
            (B, any), or None where the family cannot say.
        """
        return None

    def to(self, device: torch.device | str) -> TrainPipeline:
        """Move what `prepare` computes with (a text encoder) to a device; the network is not moved."""
        return self
