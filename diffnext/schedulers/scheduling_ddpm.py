# SPDX-License-Identifier: Apache-2.0
"""Denoising diffusion (arXiv:2006.11239): diffusers' scheduler, with a timestep for each token."""

from __future__ import annotations

from functools import cached_property

import torch
from diffusers import DDPMScheduler as BaseScheduler
from torch import Tensor

from diffnext.schedulers import densities
from diffnext.utils.seeding import Draws


class DDPMScheduler(BaseScheduler):
    """Sampling is diffusers' own; training noise has any number of timesteps a sample."""

    @cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        """Cumulative products of alpha, (timesteps,) float32, by device."""
        return {}

    def draw_timesteps(self, draws: Draws, *shape: int) -> Tensor:
        """Uniform timesteps, (B, *shape) int64."""
        return densities.uniform(draws.rand(*shape), self.config.num_train_timesteps)

    def model_timesteps(self, timesteps: Tensor) -> Tensor:
        """What the network is told about drawn timesteps: the same numbers, float32."""
        return timesteps.float()

    def noise_levels(self, timesteps: Tensor) -> Tensor:
        """Share of noise at drawn timesteps: sqrt(1 - a), from 0 to 1."""
        return (1 - self._alphas(timesteps.float(), timesteps)).sqrt()

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(a) x0 + sqrt(1 - a) noise, eq. 4, with the cumulative product a at `timesteps`.

        Args:
            original_samples, noise: x0 and noise of one shape.
            timesteps: int64, of the shape of x0 without some of its last axes.
        """
        alphas = self._alphas(original_samples, timesteps)
        return alphas.sqrt() * original_samples + (1 - alphas).sqrt() * noise

    def target(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network learns to predict of x_t, by the configured prediction type."""
        kind = self.config.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "sample":
            return x0
        if kind == "v_prediction":
            alphas = self._alphas(x0, timesteps)
            return alphas.sqrt() * noise - (1 - alphas).sqrt() * x0
        choices = "epsilon, sample or v_prediction"
        raise ValueError(f"prediction_type of the scheduler is {kind!r}, wanted {choices}")

    def _alphas(self, x: Tensor, timesteps: Tensor) -> Tensor:
        if x.device not in self._tables:  # copying it in each step would wait for the device
            self._tables[x.device] = self.alphas_cumprod.to(x.device)
        alphas = self._tables[x.device][timesteps].to(x.dtype)
        return alphas.reshape(*timesteps.shape, *[1] * (x.dim() - timesteps.dim()))
