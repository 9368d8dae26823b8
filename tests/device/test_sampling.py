# SPDX-License-Identifier: Apache-2.0
"""Sampling and encoding on a GPU: everything is where it is computed with, and comes back to the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffnext.data.encoding import Encoder
from tests.device.gpu import DEVICE, gpu
from tests.pipelines import tiny

STEPS = {"num_inference_steps": 2, "num_diffusion_steps": 1}
PICTURE = np.zeros((32, 32, 3), np.uint8)
GUIDED = {"guidance_renorm": 0.5, "guidance_trunc": 300, "negative_prompt": "blurred"}


def seeds(count: int, device: torch.device | str = "cpu") -> list[torch.Generator]:
    return [torch.Generator(device).manual_seed(i) for i in range(count)]


def test_pictures_of_texts_by_generators_of_the_host():
    with gpu():
        pipe = tiny.t2i().to(DEVICE)
        made = pipe(["red", "a blue one"], generator=seeds(2), **GUIDED, **STEPS).images
    assert [picture.size for picture in made] == [(32, 32)] * 2


def test_a_video_of_a_picture():
    with gpu():
        pipe = tiny.t2v()
        for part in (pipe.transformer, pipe.vae, pipe.text_encoder):
            torch.nn.Module.to(part, DEVICE, torch.bfloat16)
        options = {"image": PICTURE, "max_latent_length": 2, "image_guidance_scale": 2.0}
        video = pipe("red", generator=seeds(1)[0], output_type="np", **options, **STEPS).frames
    assert video.shape == (1, 5, 32, 32, 3)


def test_pictures_of_classes_by_a_generator_of_the_gpu_stay_there():
    with gpu() as watch:
        pipe = tiny.c2i().to(DEVICE)
        watch.waits.clear()
        made = pipe([1, 2], generator=seeds(1, DEVICE)[0], output_type="pt", **STEPS).images
        assert (made.shape, made.device) == ((2, 3, 32, 32), DEVICE)
    moved = [wait.split(" > ")[0] for wait in watch.waits]  # classes, and the number of the frame
    assert [name.split(":")[0] for name in moved] == ["pipeline_nova_c2i.py", "generation_3d.py"]


@pytest.mark.parametrize(("make", "frames"), [(tiny.t2i, 1), (tiny.t2v, 5)])
def test_moments_for_a_cache(make, frames):
    with gpu():
        vae = make().vae
        encode = Encoder(torch.nn.Module.to(vae, DEVICE, torch.float16), video=frames > 1)
        moments = encode(np.zeros((2, frames, 32, 32, 3), np.uint8))
    latent = (2,) if frames > 1 else ()
    assert (moments.shape, moments.dtype) == ((2, 8, *latent, 4, 4), np.float16)
