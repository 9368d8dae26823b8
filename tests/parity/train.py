# SPDX-License-Identifier: Apache-2.0
"""One training forward on a recorded checkpoint, with the recorded random numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from diffnext.data.schema import Batch
from diffnext.models.autoencoders.latent_scale import sample_moments
from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from diffnext.pipelines.builder import PIPELINES
from diffnext.pipelines.nova.train_nova import NOVATrainPipeline, StepDraws
from diffnext.pipelines.train_base import StepOutput
from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler
from diffnext.utils.seeding import Draws

SCHEDULERS = {cls.__name__: cls for cls in (DDPMScheduler, FlowMatchEulerDiscreteScheduler)}


def build(path: Path, kind: str, **options) -> NOVATrainPipeline:
    """The training pipeline of a recorded folder; nothing is dropped."""
    config = json.loads((path / "scheduler" / "scheduler_config.json").read_text())
    pipe = PIPELINES.get(f"nova_train_{kind}")(
        NOVATransformer3DModel.from_pretrained(path / "transformer"),
        SCHEDULERS[config["_noise_class_name"]].from_config(config),
        vae_config=json.loads((path / "vae" / "config.json").read_text()),
        dropout=0.0,
        **options,
    )
    pipe.configure()
    return pipe


def recorded_draws(vectors: dict[str, Tensor], repeats: int) -> StepDraws:
    """The recorded numbers of all tokens, of which the masked ones are taken."""
    mask = vectors["train.mask"].squeeze(-1)  # (B * T, N)
    masked_ids = mask.nonzero()[:, 1].reshape(len(mask), -1)
    places = masked_ids.expand(repeats, -1, -1)
    timesteps = vectors["train.timesteps"].reshape(repeats, *mask.shape)
    noise = vectors["train.noise"].reshape(repeats, *mask.shape, -1)
    return StepDraws(
        visible_ids=vectors["train.prev_ids"].squeeze(-1),
        masked_ids=masked_ids,
        timesteps=timesteps.gather(2, places),
        noise=noise.gather(2, places.unsqueeze(-1).expand(-1, -1, -1, noise.size(-1))),
    )


def step(pipe: NOVATrainPipeline, vectors: dict[str, Tensor], **fields) -> StepOutput:
    """The loss of the recorded moments; `fields` are the other fields of the batch."""
    moments = vectors["train.moments_fp16"]
    if moments.dim() == 4:
        moments = moments.unsqueeze(2)
    count = len(moments)
    batch = Batch(moments, index=torch.arange(count), epoch=torch.zeros(count).long(), **fields)
    inputs = pipe.prepare(batch, draws=Draws(0, 0, batch.keys()))
    noise = vectors["train.posterior_noise"].reshape(inputs.latents.shape)
    latents = pipe.latent_config.scale_(sample_moments(moments, noise))
    draws = recorded_draws(vectors, pipe.loss_repeat)
    return pipe.loss(pipe.model, replace(inputs, latents=latents), draws=draws)


def gradient(net: nn.Module, name: str, wanted: Tensor) -> Tensor:
    """A parameter's gradient; of the class table only the rows of the recorded classes 3 and 7."""
    found = net.get_parameter(name).grad
    return found if found.shape == wanted.shape else found[[3, 7]]
