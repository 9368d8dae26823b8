# SPDX-License-Identifier: Apache-2.0
"""NOVATransformer3DModel: from a configuration to the parts of the network."""

from __future__ import annotations

import re
from collections.abc import Sequence

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from diffnext.models.diffusion_mlp import DiffusionMLP
from diffnext.models.embeddings import NUM_CLASSES, LabelEmbed, TextEmbed
from diffnext.models.normalization import AdaptiveNorm
from diffnext.models.transformers.transformer_3d import Transformer3D
from diffnext.models.vision_transformer import VisionTransformer


def parse_arch(name: str, kind: str) -> tuple[int, int]:
    """Depth and width of "vit_d16w768" (kind "vit") or "mlp_d3w1280" (kind "mlp")."""
    match = re.fullmatch(rf"{kind}_d(\d+)w(\d+)", name)
    if match is None:
        raise ValueError(f"arch has {name!r}, wanted {kind}_d<depth>w<width> such as {kind}_d3w768")
    return int(match[1]), int(match[2])


class NOVATransformer3DModel(Transformer3D, ModelMixin, ConfigMixin):
    """NOVA's network (arXiv:2412.14169) in the layout of the published checkpoints.

    Args:
        image_dim: latent channels.
        image_size: pixels of a picture's side, or (height, width).
        image_stride: pixels for each latent pixel.
        text_token_dim: width of the text encoder; None makes a model of 1000 classes.
        text_token_len: condition tokens of a prompt.
        image_base_size: (h, w) tokens of the image encoder.
        video_base_size: (t, h, w) tokens of the video encoder; t > 1 makes a model of videos.
        video_mixer_rank: rank of the module that mixes the first frame into later ones; None for none.
        rotary_pos_embed: rotary positions in place of absolute ones.
        arch: video encoder, image encoder ("vit_d16w1024") and decoder ("mlp_d6w1024").
    """

    @register_to_config
    def __init__(
        self,
        image_dim: int = 4,
        image_size: int | Sequence[int] = 1024,
        image_stride: int = 8,
        text_token_dim: int | None = 2560,
        text_token_len: int | None = 256,
        image_base_size: Sequence[int] = (64, 64),
        video_base_size: Sequence[int] = (1, 32, 32),
        video_mixer_rank: int | None = None,
        rotary_pos_embed: bool = False,
        arch: Sequence[str] = ("vit_d16w1024", "vit_d32w1024", "mlp_d6w1024"),
    ) -> None:
        video_arch, image_arch = parse_arch(arch[0], "vit"), parse_arch(arch[1], "vit")
        decoder_arch, dim = parse_arch(arch[2], "mlp"), image_arch[1]
        if video_arch[1] != dim:
            raise ValueError(
                f"arch has encoders of width {video_arch[1]} and {dim}; they must agree"
            )
        patch = 15 // image_stride + 1
        video_encoder = VisionTransformer(
            *video_arch, channels=image_dim, patch=2 * patch, mixer_rank=video_mixer_rank or 0
        )
        image_encoder = VisionTransformer(*image_arch, channels=image_dim, patch=patch)
        decoder = DiffusionMLP(*decoder_arch, cond_dim=dim, channels=image_dim, patch=patch)
        text_embed = label_embed = None
        if text_token_dim:
            text_embed = TextEmbed(text_token_dim, dim, text_token_len)
        else:
            label_embed = LabelEmbed(NUM_CLASSES, dim)
        super().__init__(
            video_encoder,
            image_encoder,
            decoder,
            base_frames=video_base_size[0],
            rotary=rotary_pos_embed,
            text_embed=text_embed,
            label_embed=label_embed,
            has_motion=video_base_size[0] > 1,
        )
        self.init_weights()

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents that the model was made for."""
        size = self.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return height // self.config.image_stride, width // self.config.image_stride

    def init_weights(self) -> None:
        """Start a model that learns: each decoder block as the identity, the prediction as zero."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, AdaptiveNorm):
                nn.init.zeros_(module.proj.weight)
        nn.init.zeros_(self.image_decoder.head.weight)
