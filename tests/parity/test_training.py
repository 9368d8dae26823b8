# SPDX-License-Identifier: Apache-2.0
"""Losses and gradients of the training pipelines against the recorded ones."""

import pytest
import torch
from transformers import AutoTokenizer

from diffnext.models.text_encoders.phi import PhiEncoderModel
from tests.parity import recorded, train

CASES = {
    "t2i": {"prompts": ["a red cat on a mat", "two birds"]},
    "t2v": {"prompts": ["a red cat", "two birds"], "flow": torch.tensor([5.0, 3.0])},
    "c2i": {"labels": torch.tensor([3, 7])},
}


def pipeline(kind):
    path = recorded.folder(kind)
    if kind == "c2i":
        return train.build(path, kind, loss_repeat=4)
    parts = {
        "tokenizer": AutoTokenizer.from_pretrained(path / "tokenizer"),
        "text_encoder": PhiEncoderModel.from_pretrained(path / "text_encoder").eval(),
    }
    return train.build(path, kind, loss_repeat=2, **parts)


@pytest.mark.parametrize("kind", CASES)
def test_losses_and_gradients(kind):
    vectors, pipe = recorded.vectors(kind), pipeline(kind)
    output = train.step(pipe, vectors, **CASES[kind])
    names = [key for key in vectors if key.startswith("train.loss")]
    assert {f"train.{name}" for name in output.metrics} == set(names)
    for name in names:
        recorded.assert_near(output.metrics[name.removeprefix("train.")], vectors[name], 1e-5)
    output.loss.backward()
    gradients = [key for key in vectors if key.startswith("train.grad.")]
    assert gradients
    for key in gradients:
        found = train.gradient(pipe.model, key.removeprefix("train.grad."), vectors[key])
        recorded.assert_near(found, vectors[key], 1e-4)


@pytest.mark.parametrize("kind", ["t2i", "t2v"])
def test_number_of_parameters_that_learn(kind):
    net = pipeline(kind).model
    learning = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    assert learning == recorded.vectors(kind)["train.trainable"].item()
