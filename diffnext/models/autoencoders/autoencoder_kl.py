# SPDX-License-Identifier: Apache-2.0
"""The autoencoder of pictures: diffusers' own, with the scale of latents that NOVA uses."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from diffusers.configuration_utils import register_to_config

from diffnext.models.autoencoders.latent_scale import LatentScale


class AutoencoderKL(LatentScale, DiffusersAutoencoderKL):
    """Pictures (B, 3, H, W) in [-1, 1] to moments (B, 2C, H / s, W / s) and back.

    Each block but the last halves the size: s is 8 for four blocks. What a cache stores is
    `encode(x).latent_dist.parameters`; `decode(z).sample` takes latents after `unscale_`.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: Sequence[str] = ("DownEncoderBlock2D",),
        up_block_types: Sequence[str] = ("UpDecoderBlock2D",),
        block_out_channels: Sequence[int] = (64,),
        layers_per_block: int = 1,
        act_fn: str = "silu",
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 32,
        scaling_factor: float = 0.18215,
        shift_factor: float | None = None,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
        force_upcast: bool = True,
        double_z: bool = True,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        mid_block_add_attention: bool = True,
    ) -> None:
        if not double_z:
            raise ValueError(
                "vae config.json has double_z False; moments need a mean and a variance (True)"
            )
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            act_fn=act_fn,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            sample_size=sample_size,
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            latents_mean=latents_mean,
            latents_std=latents_std,
            force_upcast=force_upcast,
            use_quant_conv=use_quant_conv,
            use_post_quant_conv=use_post_quant_conv,
            mid_block_add_attention=mid_block_add_attention,
        )
