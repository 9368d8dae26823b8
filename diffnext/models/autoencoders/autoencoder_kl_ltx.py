# SPDX-License-Identifier: Apache-2.0
"""The autoencoder of LTX-Video: diffusers' own, with the layouts and the scale of NOVA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo as DiffusersAutoencoderKLLTXVideo
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor

from diffnext.models.autoencoders.latent_scale import LatentScale
from diffnext.models.autoencoders.modeling_utils import PicturesAsVideos, TwoLayouts

NOVA_NAMES = (
    ("time_embed.timestep_proj.fc1.", "time_embedder.timestep_embedder.linear_1."),
    ("time_embed.timestep_proj.fc2.", "time_embedder.timestep_embedder.linear_2."),
    ("decoder.timestep_scale", "decoder.timestep_scale_multiplier"),
)


class AutoencoderKLLTXVideo(
    TwoLayouts, LatentScale, PicturesAsVideos, DiffusersAutoencoderKLLTXVideo
):
    """Videos (B, 3, 8 k + 1, H, W) in [-1, 1] to moments (B, 256, k + 1, H / 32, W / 32) and back.

    NOVA knows version 0.9.5 alone and lists the decoder's last width too, so that
    `decoder_block_out_channels` are as many as `decoder_layers_per_block`; in diffusers there is
    one fewer. Such a configuration is turned into that of diffusers.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 128,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        down_block_types: Sequence[str] = ("LTXVideoDownBlock3D",) * 4,
        decoder_block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: Sequence[int] = (4, 3, 3, 3, 4),
        decoder_layers_per_block: Sequence[int] = (4, 3, 3, 3, 4),
        spatio_temporal_scaling: Sequence[bool] = (True, True, True, False),
        decoder_spatio_temporal_scaling: Sequence[bool] = (True, True, True, False),
        decoder_inject_noise: Sequence[bool] = (False,) * 5,
        downsample_type: Sequence[str] = ("conv",) * 4,
        upsample_residual: Sequence[bool] = (False,) * 4,
        upsample_factor: Sequence[int] = (1,) * 4,
        timestep_conditioning: bool = False,
        patch_size: int = 4,
        patch_size_t: int = 1,
        resnet_norm_eps: float = 1e-6,
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
        encoder_causal: bool = True,
        decoder_causal: bool = False,
        spatial_compression_ratio: int | None = None,
        temporal_compression_ratio: int | None = None,
        act_fn: str = "silu",
        sample_size: int = 1024,
    ) -> None:
        options = {
            "block_out_channels": block_out_channels,
            "down_block_types": down_block_types,
            "decoder_block_out_channels": decoder_block_out_channels,
            "layers_per_block": layers_per_block,
            "decoder_layers_per_block": decoder_layers_per_block,
            "spatio_temporal_scaling": spatio_temporal_scaling,
            "decoder_spatio_temporal_scaling": decoder_spatio_temporal_scaling,
            "decoder_inject_noise": decoder_inject_noise,
            "downsample_type": downsample_type,
            "upsample_residual": upsample_residual,
            "upsample_factor": upsample_factor,
            "timestep_conditioning": timestep_conditioning,
            "spatial_compression_ratio": spatial_compression_ratio,
            "temporal_compression_ratio": temporal_compression_ratio,
        }
        if len(decoder_block_out_channels) == len(decoder_layers_per_block):
            options |= _version_095(decoder_block_out_channels, decoder_layers_per_block)
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            latent_channels=latent_channels,
            patch_size=patch_size,
            patch_size_t=patch_size_t,
            resnet_norm_eps=resnet_norm_eps,
            scaling_factor=scaling_factor,
            encoder_causal=encoder_causal,
            decoder_causal=decoder_causal,
            **options,
        )

    def _decode(
        self, z: Tensor, temb: Tensor | None = None, return_dict: bool = True
    ) -> DecoderOutput | Tensor:
        if temb is None and self.config.timestep_conditioning:
            temb = torch.zeros(z.shape[0], dtype=z.dtype, device=z.device)
        return super()._decode(z, temb, return_dict)

    def _channel_statistics(self) -> tuple[Tensor, Tensor]:
        # as attributes they would give way to entries of a configuration with the same names
        buffers = dict(self.named_buffers(recurse=False))
        return buffers["latents_mean"], buffers["latents_std"]

    def _rename(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        channels = self.config.latent_channels
        renamed = {
            "latents_mean": torch.zeros(channels),
            "latents_std": torch.ones(channels),
        }
        for name, value in state_dict.items():
            if name == "shift_factors":
                renamed["latents_mean"] = value.flatten()
            elif name == "scaling_factors":
                renamed["latents_std"] = 1 / value.flatten()
            else:
                for old, new in NOVA_NAMES:
                    if not name.startswith(new):
                        name = name.replace(old, new)
                renamed[name] = value
        return renamed


def _version_095(widths: Sequence[int], layers: Sequence[int]) -> dict[str, Any]:
    """The options of diffusers for LTX-Video 0.9.5, given NOVA's decoder."""
    ups = len(widths) - 1
    return {
        "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
        "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        "spatio_temporal_scaling": (True,) * 4,
        "decoder_block_out_channels": tuple(widths[1:]),
        "decoder_layers_per_block": (*reversed(layers[:-1]), layers[-1]),
        "decoder_spatio_temporal_scaling": (True,) * ups,
        "decoder_inject_noise": (False,) * (ups + 1),
        "upsample_residual": (True,) * ups,
        "upsample_factor": (2,) * ups,
        "timestep_conditioning": True,
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
    }
