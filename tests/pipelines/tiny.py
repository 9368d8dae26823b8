# SPDX-License-Identifier: Apache-2.0
"""Pipelines with random weights, made in a moment."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CodeGenTokenizerFast

from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora
from diffnext.models.text_encoders.phi import PhiEncoderModel
from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from diffnext.pipelines import NOVAC2IPipeline, NOVAPipeline
from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler

TEXT = Path(__file__).parents[1] / "parity" / "golden" / "text"
NETWORK = {
    "image_size": 32,
    "image_base_size": (2, 2),
    "arch": ("vit_d2w64", "vit_d2w64", "mlp_d1w64"),
}
VAE = {"block_out_channels": (4, 4, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
PICTURE_VAE = VAE | {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def network(**options) -> NOVATransformer3DModel:
    """A network that predicts something else than zero."""
    torch.manual_seed(0)
    net = NOVATransformer3DModel(**NETWORK, **options).eval()
    with torch.no_grad():
        net.image_decoder.head.weight.normal_(0, 0.1)
        for module in net.image_decoder.modules():
            if hasattr(module, "proj") and hasattr(module.proj, "weight"):
                module.proj.weight.normal_(0, 0.02)
    return net


def text_parts() -> dict:
    return {
        "tokenizer": CodeGenTokenizerFast.from_pretrained(TEXT),
        "text_encoder": PhiEncoderModel.from_pretrained(TEXT),
    }


def finished(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def t2i() -> NOVAPipeline:
    """Text to pictures of 32 pixels, denoising diffusion."""
    net = network(text_token_dim=64, text_token_len=12, video_base_size=(1, 1, 1))
    vae = AutoencoderKL(**PICTURE_VAE).eval()
    return finished(NOVAPipeline(vae, net, DDPMScheduler(), **text_parts()))


def t2v() -> NOVAPipeline:
    """Text to videos of 32 pixels, flow matching."""
    options = {"text_token_dim": 64, "text_token_len": 12, "video_base_size": (2, 1, 1)}
    net = network(rotary_pos_embed=True, video_mixer_rank=4, **options)
    vae = AutoencoderKLOpenSora(**VAE).eval()
    return finished(NOVAPipeline(vae, net, FlowMatchEulerDiscreteScheduler(), **text_parts()))


def c2i() -> NOVAC2IPipeline:
    """Class to pictures of 32 pixels."""
    net = network(text_token_dim=None, text_token_len=None, video_base_size=(1, 1, 1))
    return finished(NOVAC2IPipeline(AutoencoderKL(**PICTURE_VAE).eval(), net, DDPMScheduler()))
