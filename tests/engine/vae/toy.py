# SPDX-License-Identifier: Apache-2.0
"""Autoencoders that are small enough for tests."""

from __future__ import annotations

import torch
from torch import nn

from diffnext.engine.vae import initial, models

COMMON = {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 1}
PICTURES = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "mid_block_add_attention": False,
    **COMMON,
}
VIDEOS = {"_class_name": "AutoencoderKLOpenSora", **COMMON}


def fresh(config: dict, seed: int = 0) -> nn.Module:
    """An untrained autoencoder with the weights that training begins with."""
    torch.manual_seed(seed)
    vae = models.build(config).eval()
    initial.start_linear(vae)
    return vae
