# SPDX-License-Identifier: Apache-2.0
"""NOVA networks of two blocks, with random weights in place of the zeros that training starts from."""

from __future__ import annotations

import torch
from torch import nn

from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel

TEXT_DIM, TEXT_LEN = 8, 5
CONFIG = {
    "image_dim": 4,
    "image_size": 64,
    "image_stride": 8,
    "image_base_size": (4, 4),
    "arch": ("vit_d2w32", "vit_d2w32", "mlp_d2w16"),
    "text_token_dim": TEXT_DIM,
    "text_token_len": TEXT_LEN,
    "video_base_size": (1, 2, 2),
}


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a random value, so that no term of a formula is idle."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(std=0.15, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return module


def text_net(**options) -> NOVATransformer3DModel:
    """A model of pictures from text; `options` change its configuration."""
    return randomize(NOVATransformer3DModel(**(CONFIG | options)))


def video_net(*, rotary: bool = True, mixer: int | None = 4) -> NOVATransformer3DModel:
    """A model of videos from text."""
    return text_net(video_base_size=(3, 2, 2), rotary_pos_embed=rotary, video_mixer_rank=mixer)


def class_net() -> NOVATransformer3DModel:
    """A model of pictures from classes."""
    return text_net(text_token_dim=None, text_token_len=None)
