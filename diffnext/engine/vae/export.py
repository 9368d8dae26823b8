# SPDX-License-Identifier: Apache-2.0
"""From trained weights to a folder that pipelines load: latents of unit variance, measured quality."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffnext.engine.vae import losses
from diffnext.engine.vae.initial import moment_layer
from diffnext.engine.vae.sources import Batches, Source, stack
from diffnext.utils.mixing import mix

CHUNK = 8  # clips at once
MIN_STD = 1e-3  # a latent channel that moves less says nothing and is left as it is


@dataclass(frozen=True)
class Quality:
    """Measured on held-out clips; PSNR in dB of 8-bit pixels, averaged over clips."""

    psnr: float  # decoded from the mean of the posterior
    psnr_sample: float  # decoded from a draw, which is what a generator is trained on
    clips: int
    latent_std: float  # of draws, after scaling
    posterior_std: float  # of the posterior, after scaling


@torch.no_grad()
def measure(vae: nn.Module, source: Source, *, count: int, num_frames: int = 1) -> Quality:
    """Encode and decode held-out clips.

    Args:
        count: number of clips, cut to those that there are.
        num_frames: of each clip; 1 for pictures.
    """
    available = source.num_heldout()
    count = count if available is None else min(count, available)
    device = next(vae.parameters()).device
    psnr, psnr_sample, draws, widths = [], [], [], []
    for start in range(0, count, CHUNK):
        numbers = range(start, min(start + CHUNK, count))
        x = stack([source.heldout(number, num_frames) for number in numbers]).to(device)
        posterior = vae.encode(x).latent_dist
        noise = _noise(posterior.mean, start)
        draw = losses.sample_moments(posterior.parameters, noise)
        psnr.append(_psnr(vae.decode(posterior.mean).sample, x))
        psnr_sample.append(_psnr(vae.decode(draw).sample, x))
        draws.append(vae.scale_(draw).flatten())
        widths.append((vae.scale_(draw + posterior.std) - vae.scale_(draw)).flatten())
    return Quality(
        psnr=float(torch.cat(psnr).mean()),
        psnr_sample=float(torch.cat(psnr_sample).mean()),
        clips=count,
        latent_std=float(torch.cat(draws).std()),
        posterior_std=float(torch.cat(widths).mean()),
    )


@torch.no_grad()
def normalise(vae: nn.Module, batches: Batches, *, count: int = 32) -> None:
    """Give every latent channel mean 0 and variance 1 over training clips, without changing a picture.

    The change is put into the convolutions before and after the latents, where the class has them;
    what is left goes to `scaling_factor` and `shift_factor` of the configuration.
    """
    latents = torch.cat(list(_draws(vae, batches, count)), dim=1)  # (C, n)
    mean, std = latents.mean(1), latents.std(1)
    if isinstance(vae.post_quant_conv, (nn.Conv2d, nn.Conv3d)):
        fold(vae, mean, std.where(std > MIN_STD, torch.ones_like(std)))
        latents = torch.cat(list(_draws(vae, batches, count)), dim=1)
    shift, spread = float(latents.mean()), float(latents.std())
    vae.register_to_config(
        scaling_factor=round(1.0 / spread, 5),
        shift_factor=round(shift, 5) if abs(shift) > 0.01 * spread else None,
    )


@torch.no_grad()
def fold(vae: nn.Module, mean: Tensor, std: Tensor) -> None:
    """Make the latents (z - mean) / std, a number a channel, and let the decoder undo it."""
    before, after = moment_layer(vae), vae.post_quant_conv
    rows = (-1, *[1] * (before.weight.dim() - 1))
    half = before.out_channels // 2
    before.bias[:half].sub_(mean).div_(std)
    before.weight[:half].div_(std.view(rows))
    before.bias[half:].sub_(2.0 * std.log())
    columns = (1, -1, *[1] * (after.weight.dim() - 2))
    after.bias.add_(after.weight.flatten(1) @ mean)
    after.weight.mul_(std.view(columns))


def save(vae: nn.Module, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write configuration and weights, loadable by `from_pretrained`; replaces an older export."""
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    nn.Module.to(vae, dtype)  # the method of diffusers warns about layers that it does not have
    vae.save_pretrained(aside)
    folder.mkdir(parents=True, exist_ok=True)
    for file in aside.iterdir():
        file.replace(folder / file.name)
    aside.rmdir()


def write_report(path: Path, quality: Quality, **facts: object) -> None:
    """Write what was measured, and how, as JSON."""
    numbers = {key: round(value, 4) for key, value in vars(quality).items()}
    path.write_text(json.dumps({**numbers, **facts}, indent=2) + "\n")


def _draws(vae: nn.Module, batches: Batches, count: int) -> Iterator[Tensor]:
    """Latents (C, n) of `count` training batches."""
    device = next(vae.parameters()).device
    for step in range(count):
        posterior = vae.encode(batches.at(step).to(device)).latent_dist
        draw = losses.sample_moments(posterior.parameters, _noise(posterior.mean, step))
        yield draw.transpose(0, 1).flatten(1)


def _noise(like: Tensor, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(mix("measure", number))
    return torch.randn(like.shape, generator=generator).to(like)


def _psnr(decoded: Tensor, x: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of 8-bit pixels, dB, (B,). Identical clips count as 100 dB."""
    levels = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round() / 255
    error = (levels - (x + 1) / 2).square().flatten(1).mean(1)
    return 10 * torch.log10(1 / error.clamp(min=1e-10))
