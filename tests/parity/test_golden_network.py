# SPDX-License-Identifier: Apache-2.0
"""The committed network of classes against its recorded loss, gradient and latents."""

import pytest
import torch
from safetensors.torch import load_file

from diffnext.models.guidance_scaler import Guidance
from diffnext.models.transformers.generation_3d import generate
from tests.parity import train
from tests.parity.make_golden import GOLDEN
from tests.parity.recorded import assert_near

LABELS = torch.tensor([3, 7])
NO_LABELS = torch.tensor([1000, 1000])


@pytest.fixture(scope="module")
def vectors():
    return load_file(GOLDEN / "vectors.safetensors")


@pytest.fixture
def pipe():
    return train.build(GOLDEN, "c2i", loss_repeat=4)


def test_loss_and_gradient(pipe, vectors):
    output = train.step(pipe, vectors, labels=LABELS)
    assert_near(output.metrics["loss"], vectors["train.loss"], 1e-5)
    output.loss.backward()
    wanted = vectors["train.grad.label_embed.weight"]
    found = train.gradient(pipe.model, "label_embed.weight", wanted)
    assert_near(found, wanted, 1e-4)


@pytest.mark.parametrize(
    ("name", "guidance"),
    [("gen.cfg5", Guidance(scale=5)), ("gen.mincfg", Guidance(scale=5, min_scale=1.5))],
)
def test_latents(pipe, vectors, name, guidance):
    found = generate(
        pipe.model.eval(),
        pipe.scheduler,
        pipe.model.embed(labels=torch.cat([LABELS, NO_LABELS])),
        num_frames=1,
        num_ar_steps=4,
        num_diffusion_steps=5,
        guidance=guidance,
        generator=torch.Generator().manual_seed(7),
    )
    assert_near(found, vectors[name], 1e-4)
