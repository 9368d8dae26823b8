# SPDX-License-Identifier: Apache-2.0
"""Flow matching on the straight path (arXiv:2210.02747), with a timestep for each token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler as BaseScheduler
from torch import Tensor

from diffnext.schedulers import densities
from diffnext.utils.seeding import Draws


class FlowMatchEulerDiscreteScheduler(BaseScheduler):
    """diffusers' scheduler; training times are numbers of places in its descending schedule."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Choose the noise levels of sampling: evenly spaced, then shifted; see diffusers.

        They are computed in float32, as the published model does; in float64, pictures of a shifted
        schedule come out otherwise.
        """
        if sigmas is None and timesteps is None and not self.config.use_dynamic_shifting:
            count = self.config.num_train_timesteps
            limits = (count * self.sigma_max, count * self.sigma_min)
            sigmas = np.linspace(*limits, num_inference_steps, dtype=np.float32) / count
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)

    def draw_timesteps(self, draws: Draws, *shape: int) -> Tensor:
        """Places in the schedule by the logit-normal density, (B, *shape) int64."""
        return densities.logit_normal(draws.randn(*shape), self.config.num_train_timesteps)

    def model_timesteps(self, timesteps: Tensor) -> Tensor:
        """What the network is told about places in the schedule: sigma times 1000, float32."""
        return self._sigmas(timesteps) * self.config.num_train_timesteps

    def noise_levels(self, timesteps: Tensor) -> Tensor:
        """Share of noise at places in the schedule: sigma, from 0 to 1."""
        return self._sigmas(timesteps)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """(1 - sigma) x0 + sigma noise.

        Args:
            original_samples, noise: x0 and noise of one shape.
            timesteps: int64 places in the schedule, of the shape of x0 without some last axes.
        """
        sigmas = self._sigmas(timesteps).to(original_samples.dtype)
        extra = original_samples.dim() - timesteps.dim()
        sigmas = sigmas.reshape(*timesteps.shape, *[1] * extra)
        return (1 - sigmas) * original_samples + sigmas * noise

    def target(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network learns to predict: the velocity noise - x0."""
        return noise - x0

    def _sigmas(self, timesteps: Tensor) -> Tensor:
        """Noise level of places in the training schedule, whatever the sampling schedule is now."""
        count, shift = self.config.num_train_timesteps, self.config.shift
        sigmas = (count - timesteps).to(torch.float32) / count
        return shift * sigmas / (1 + (shift - 1) * sigmas)
