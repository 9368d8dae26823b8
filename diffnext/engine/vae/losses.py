# SPDX-License-Identifier: Apache-2.0
"""What an autoencoder minimises: reconstruction, the width of the posterior, and a patch discriminator.

B batch, C channel, T frame, H W size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from diffnext.models.autoencoders.latent_scale import sample_moments


def reconstruct(
    vae: nn.Module, x: Tensor, noise: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Encode, draw from the posterior, decode.

    Args:
        x: (B, 3, [T,] H, W) in [-1, 1].
        noise: returns standard normal numbers of the shape (B, C, [t,] h, w) of what it is given.

    Returns:
        The decoded x, and the moments (B, 2C, [t,] h, w).
    """
    posterior = vae.encode(x).latent_dist
    latents = sample_moments(posterior.parameters, noise(posterior.mean))
    return vae.decode(latents).sample, posterior.parameters


def distance(decoded: Tensor, x: Tensor) -> Tensor:
    """Mean absolute plus mean squared error: the first keeps edges sharp, the second colours right."""
    error = decoded.float() - x.float()
    return error.abs().mean() + error.square().mean()


def divergence(moments: Tensor) -> Tensor:
    """KL divergence of the posterior from the standard normal, nats for each latent number, averaged.

    Appendix B of arXiv:1312.6114; the mean makes its weight independent of sizes.
    """
    mean, logvar = moments.float().chunk(2, dim=1)
    logvar = logvar.clamp(-30.0, 20.0)
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()


class PatchDiscriminator(nn.Sequential):
    """Tells drawn patches from decoded ones: one logit for every 8 x 8 pixels (arXiv:1611.07004).

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int = 32) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(2):
            before, after = width << i, width << (i + 1)
            layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False))
            layers.append(nn.GroupNorm(8, after))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(nn.Conv2d(width << 2, 1, 3, padding=1))
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1, H / 8, W / 8) of pictures, or of all frames of videos (B, 3, T, H, W)."""
        if x.dim() == 5:
            x = x.transpose(1, 2).flatten(0, 1)
        return super().forward(x)


def generator_loss(discriminator: nn.Module, decoded: Tensor) -> Tensor:
    """Hinge loss of the side that wants its patches taken for drawn ones."""
    return -discriminator(decoded).float().mean()


def discriminator_loss(discriminator: nn.Module, x: Tensor, decoded: Tensor) -> Tensor:
    """Hinge loss of the judge; `decoded` gets no gradient."""
    real = F.relu(1.0 - discriminator(x).float()).mean()
    fake = F.relu(1.0 + discriminator(decoded.detach()).float()).mean()
    return 0.5 * (real + fake)
