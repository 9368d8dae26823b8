# SPDX-License-Identifier: Apache-2.0
"""The autoencoder of CogVideoX: diffusers' own, with the layouts and the scale of NOVA."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from diffusers import AutoencoderKLCogVideoX as DiffusersAutoencoderKLCogVideoX
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from diffnext.models.autoencoders.latent_scale import LatentScale
from diffnext.models.autoencoders.modeling_utils import PicturesAsVideos, TwoLayouts

NOVA_NAMES = (
    (r"\.scale\.(weight|bias)$", r".conv_y.conv.\1"),
    (r"\.shift\.(weight|bias)$", r".conv_b.conv.\1"),
    (r"\.conv_norm_out\.", ".norm_out."),
)


class AutoencoderKLCogVideoX(
    TwoLayouts, LatentScale, PicturesAsVideos, DiffusersAutoencoderKLCogVideoX
):
    """Videos (B, 3, 4 k + 1, H, W) in [-1, 1] to moments (B, 32, k + 1, H / 8, W / 8) and back."""

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: Sequence[str] = ("CogVideoXDownBlock3D",) * 4,
        up_block_types: Sequence[str] = ("CogVideoXUpBlock3D",) * 4,
        block_out_channels: Sequence[int] = (128, 256, 256, 512),
        latent_channels: int = 16,
        layers_per_block: int = 3,
        act_fn: str = "silu",
        norm_eps: float = 1e-6,
        norm_num_groups: int = 32,
        temporal_compression_ratio: float = 4,
        sample_size: int = 480,
        sample_height: int = 480,
        sample_width: int = 720,
        scaling_factor: float = 1.15258426,
        shift_factor: float | None = None,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
        force_upcast: bool = True,
        use_quant_conv: bool = False,
        use_post_quant_conv: bool = False,
        invert_scale_latents: bool = False,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            latent_channels=latent_channels,
            layers_per_block=layers_per_block,
            act_fn=act_fn,
            norm_eps=norm_eps,
            norm_num_groups=norm_num_groups,
            temporal_compression_ratio=temporal_compression_ratio,
            sample_height=sample_height,
            sample_width=sample_width,
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            latents_mean=latents_mean,
            latents_std=latents_std,
            force_upcast=force_upcast,
            use_quant_conv=use_quant_conv,
            use_post_quant_conv=use_post_quant_conv,
            invert_scale_latents=invert_scale_latents,
        )

    def _rename(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        renamed = {}
        for name, value in state_dict.items():
            for pattern, replacement in NOVA_NAMES:
                name = re.sub(pattern, replacement, name)
            renamed[name] = value
        return renamed
