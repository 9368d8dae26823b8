# SPDX-License-Identifier: Apache-2.0
"""The video autoencoder of Open-Sora Plan 1.2: 4 frames to a latent, causal and tiled in time.

B batch, C channel, T frame, H W size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from diffnext.models.autoencoders.latent_scale import LatentScale
from diffnext.models.autoencoders.modeling_utils import GaussianPosterior, map_time_tiles
from diffnext.models.autoencoders.opensora_blocks import Decoder, Encoder, causal_conv

LATENT_TILE = 5  # latent frames decoded at once; tiles share one frame


class AutoencoderKLOpenSora(LatentScale, ModelMixin, AutoencoderMixin, ConfigMixin):
    """Videos (B, 3, 4 k + 1, H, W) in [-1, 1] to moments (B, 2C, k + 1, H / 8, W / 8) and back.

    A picture (B, 3, H, W) gives moments (B, 2C, H / 8, W / 8). Encoding works on 17 frames at once
    and decoding on 5 latents, tiles sharing one, so that memory does not grow with the length.
    The factors 4 and 8 follow from the blocks: each halves the size but the last, and the samplers
    that feed a `DownEncoderBlock3D` halve the time as well.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: Sequence[str] = (
            "DownEncoderBlock2D",
            "DownEncoderBlock2D",
            "DownEncoderBlock3D",
            "DownEncoderBlock3D",
        ),
        up_block_types: Sequence[str] = ("UpDecoderBlock3D",) * 4,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        act_fn: str = "silu",
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 256,
        scaling_factor: float = 0.18215,
        shift_factor: float | None = None,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
        force_upcast: bool = True,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
    ) -> None:
        super().__init__()
        video = [_is_video_block(name) for name in down_block_types]
        time_doublings = sum(video[1:])
        self.time_stride = 2**time_doublings
        moments = 2 * latent_channels
        self.encoder = Encoder(
            in_channels,
            moments,
            block_out_channels,
            layers_per_block,
            video,
            norm_num_groups,
            act_fn,
        )
        self.decoder = Decoder(
            latent_channels,
            out_channels,
            block_out_channels,
            layers_per_block,
            time_doublings,
            norm_num_groups,
            act_fn,
        )
        self.quant_conv = causal_conv(moments, moments, 1) if use_quant_conv else nn.Identity()
        channels = latent_channels
        self.post_quant_conv = (
            causal_conv(channels, channels, 1) if use_post_quant_conv else nn.Identity()
        )
        self.use_slicing = False

    @apply_forward_hook
    def encode(
        self, x: Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[GaussianPosterior]:
        """Posterior of pictures or videos in [-1, 1].

        Args:
            x: (B, 3, H, W) or (B, 3, T, H, W) with T = 4 k + 1; height and width multiples of 8.

        Raises:
            ValueError: a number of frames that no number of latents stands for.
        """
        parts = x.split(1) if self.use_slicing else [x]
        posterior = GaussianPosterior(torch.cat([self._moments(part) for part in parts]))
        if not return_dict:
            return (posterior,)
        return AutoencoderKLOutput(latent_dist=posterior)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Pixels of latents, whatever their number.

        Args:
            z: (B, C, h, w) gives (B, 3, H, W); (B, C, t, h, w) gives (B, 3, 4 t - 3, H, W).
        """
        parts = z.split(1) if self.use_slicing else [z]
        sample = torch.cat([self._pixels(part) for part in parts])
        if not return_dict:
            return (sample,)
        return DecoderOutput(sample=sample)

    def forward(self, sample: Tensor) -> DecoderOutput:
        """Encode and decode the mean of the posterior."""
        return self.decode(self.encode(sample).latent_dist.mode())

    def _moments(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return self._moments(x[:, :, None])[:, :, 0]
        if (x.shape[2] - 1) % self.time_stride:
            fitting = x.shape[2] - (x.shape[2] - 1) % self.time_stride
            raise ValueError(
                f"video {tuple(x.shape)} has {x.shape[2]} frames; {self.time_stride} k + 1 are "
                f"wanted: cut it to {fitting}"
            )
        size = (LATENT_TILE - 1) * self.time_stride + 1
        return map_time_tiles(lambda tile: self.quant_conv(self.encoder(tile)), x, size=size)

    def _pixels(self, z: Tensor) -> Tensor:
        if z.dim() == 4:
            return self._pixels(z[:, :, None])[:, :, 0]
        return map_time_tiles(
            lambda tile: self.decoder(self.post_quant_conv(tile)), z, size=LATENT_TILE
        )


def _is_video_block(name: str) -> bool:
    if name not in ("DownEncoderBlock2D", "DownEncoderBlock3D"):
        raise ValueError(
            f"down_block_types has {name!r}; DownEncoderBlock2D or DownEncoderBlock3D is wanted"
        )
    return name.endswith("3D")
