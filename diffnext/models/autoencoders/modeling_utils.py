# SPDX-License-Identifier: Apache-2.0
"""What all autoencoders share: the posterior of given moments, tiles in time, layouts of weights.

B batch, C latent channel, T frame, H W latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from diffusers.models.autoencoders.vae import (
    DecoderOutput,
    DiagonalGaussianDistribution,
)
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor

from diffnext.utils.moments import latent_channels


class GaussianPosterior(DiagonalGaussianDistribution):
    """The normal distribution whose mean and log variance are `parameters` (B, 2C, [T,] H, W).

    Of an odd number of channels, the last is the log variance of all others. The base class reduces
    over three dimensions and so knows pictures alone; here the divergence is summed over every
    dimension but the first.
    """

    def __init__(self, parameters: Tensor, deterministic: bool = False) -> None:
        count = parameters.shape[1]
        if count % 2:
            shared = parameters[:, -1:].repeat_interleave(latent_channels(count) - 1, dim=1)
            parameters = torch.cat([parameters, shared], dim=1)
        super().__init__(parameters, deterministic)

    def kl(self, other: DiagonalGaussianDistribution | None = None) -> Tensor:
        """Divergence from `other`, or from the standard normal, in nats. Returns (B,)."""
        if other is None:
            terms = self.mean.square() + self.var - 1.0 - self.logvar
        else:
            terms = (self.mean - other.mean).square() / other.var + self.var / other.var
            terms = terms - 1.0 - self.logvar + other.logvar
        return 0.5 * terms.flatten(1).sum(1)


def map_time_tiles(fn: Callable[[Tensor], Tensor], x: Tensor, *, size: int) -> Tensor:
    """Apply `fn` to tiles of `size` frames that overlap by one, and join the results in time.

    The frame that a tile shares with its predecessor gives the tile its causal start; what becomes
    of it is dropped, since the predecessor holds it already.

    Args:
        fn: maps (B, C, t, H, W) to (B, C', t', H', W'), the first frame to one frame.
        x: (B, C, T, H, W), any T >= 1.
    """
    if x.shape[2] <= size:
        return fn(x)
    tiles = [fn(x[:, :, :size])]
    for start in range(size - 1, x.shape[2] - 1, size - 1):
        tiles.append(fn(x[:, :, start : start + size])[:, :, 1:])
    return torch.cat(tiles, dim=2)


def strides(vae: torch.nn.Module) -> tuple[int, int]:
    """Frames and pixels that one latent stands for, as (time, space): (4, 8) for Open-Sora Plan.

    A time stride s means that s k + 1 frames give k + 1 latents; 1 is an autoencoder of pictures.
    """
    config = vae.config
    time = getattr(vae, "time_stride", config.get("temporal_compression_ratio"))
    if time is None:
        time = getattr(vae, "temporal_compression_ratio", 1)
    space = getattr(vae, "spatial_compression_ratio", None)
    if space is None:
        space = 2 ** (len(config["block_out_channels"]) - 1)
    return int(time), int(space)


class PicturesAsVideos:
    """Lets an autoencoder of videos take pictures: four dimensions in, four dimensions out."""

    def encode(
        self, x: Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[GaussianPosterior]:
        """Posterior of pictures (B, 3, H, W) or videos (B, 3, T, H, W) in [-1, 1]."""
        picture = x.dim() == 4
        video = x[:, :, None] if picture else x
        moments = super().encode(video).latent_dist.parameters
        posterior = GaussianPosterior(moments[:, :, 0] if picture else moments)
        if not return_dict:
            return (posterior,)
        return AutoencoderKLOutput(latent_dist=posterior)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Pixels of latents (B, C, h, w) or (B, C, t, h, w)."""
        picture = z.dim() == 4
        video = super().decode(z[:, :, None] if picture else z).sample
        sample = video[:, :, 0] if picture else video
        if not return_dict:
            return (sample,)
        return DecoderOutput(sample=sample)


class TwoLayouts:
    """Loads state dicts with the names of NOVA as well as with those of diffusers.

    NOVA names a causal convolution `conv1.weight` where diffusers wraps it, `conv1.conv.weight`; a
    subclass adds what else differs in `_rename`.
    """

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args: object, **kwargs: object):
        """As in torch, with names of either layout."""
        return super().load_state_dict(self._in_diffusers_layout(state_dict), *args, **kwargs)

    def _fix_state_dict_keys_on_load(self, state_dict: dict[str, Tensor]) -> None:
        # diffusers calls this with the content of a weights file, which it then loads itself
        super()._fix_state_dict_keys_on_load(state_dict)
        renamed = self._in_diffusers_layout(state_dict)
        state_dict.clear()
        state_dict.update(renamed)

    def _in_diffusers_layout(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        wanted = self.state_dict().keys()
        if set(state_dict) <= set(wanted):
            return dict(state_dict)
        renamed = {}
        for name, value in self._rename(state_dict).items():
            renamed[_wrapped_name(name, wanted)] = value
        return renamed

    def _rename(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state_dict)


def _wrapped_name(name: str, wanted: Collection[str]) -> str:
    """The name of a parameter inside its wrapper, where the network has one."""
    layer, _, kind = name.rpartition(".")
    for inner in ("conv", "norm_layer"):
        if name not in wanted and f"{layer}.{inner}.{kind}" in wanted:
            return f"{layer}.{inner}.{kind}"
    return name
