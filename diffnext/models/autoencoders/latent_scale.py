# SPDX-License-Identifier: Apache-2.0
"""From stored moments to the latents of a network: of the autoencoder, its configuration is enough.

B batch, C latent channel, T frame, H W latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffnext.utils.moments import latent_channels


def sample_moments(moments: Tensor, noise: Tensor) -> Tensor:
    """Draw from the posterior of stored moments with given noise.

    Args:
        moments: (B, 2C, [T,] H, W), mean and log variance, of any floating point type; with C + 1
            channels, the last is the log variance of all.
        noise: (B, C, [T,] H, W), standard normal; its type is the type of the computation.

    Returns:
        (B, C, [T,] H, W), not yet scaled.
    """
    moments = moments.to(noise.device, noise.dtype)
    mean, log_variance = moments.tensor_split([latent_channels(moments.size(1))], dim=1)
    return mean + std_of(log_variance) * noise


def std_of(log_variance: Tensor) -> Tensor:
    """Standard deviation of a stored log variance, which counts within [-30, 20] as in diffusers."""
    return log_variance.clamp(-30.0, 20.0).mul(0.5).exp()


class LatentScale:
    """Gives an autoencoder `scale_` and `unscale_`, driven by its configuration.

    `shift_factor` and `scaling_factor` are numbers, or one number a channel. Where the
    configuration has no shift but `latents_mean` and `latents_std`, latents are standardised with
    these first.
    """

    def scale_(self, latents: Tensor) -> Tensor:
        """Return (latents - shift) * scale, a new tensor (B, C, [T,] H, W) for a network."""
        shift, scale = self._shift_and_scale(latents)
        return (latents - shift) * scale

    def unscale_(self, latents: Tensor) -> Tensor:
        """Return latents / scale + shift, a new tensor (B, C, [T,] H, W) for `decode`."""
        shift, scale = self._shift_and_scale(latents)
        return latents / scale + shift

    def _shift_and_scale(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        shift = self.config.get("shift_factor")
        scale = per_channel(self.config.get("scaling_factor", 1.0), latents)
        mean, std = self._channel_statistics()
        if shift is None and mean is not None:
            return per_channel(mean, latents), scale / per_channel(std, latents)
        return per_channel(0.0 if shift is None else shift, latents), scale

    def _channel_statistics(
        self,
    ) -> tuple[Sequence[float] | Tensor | None, Sequence[float] | Tensor | None]:
        """Mean and standard deviation of each latent channel, or None twice."""
        mean, std = self.config.get("latents_mean"), self.config.get("latents_std")
        if mean is None or std is None:
            return None, None
        return mean, std


class LatentConfig(LatentScale):
    """Scale and shift of an autoencoder, from its configuration alone."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self.config = config


def per_channel(value: float | Sequence[float] | Tensor, latents: Tensor) -> Tensor:
    """Make `value`, one number or C of them, broadcast against (B, C, ...) in its type."""
    tensor = torch.as_tensor(value, dtype=latents.dtype)
    if tensor.dim() == 0:
        return tensor  # of the host: kernels take it as an argument, and there is nothing to copy
    tensor = tensor.to(latents.device, non_blocking=True)
    return tensor.view(1, -1, *[1] * (latents.dim() - 2))
