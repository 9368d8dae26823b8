# SPDX-License-Identifier: Apache-2.0
"""Recorded checkpoints load with every name and value; conditions equal the recorded ones."""

import pytest
import torch
from safetensors.torch import load_file

from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from tests.parity import recorded


@pytest.mark.parametrize("name", ["t2i", "t2v", "c2i"])
def test_names_and_values(name):
    path = recorded.folder(name) / "transformer"
    stored = load_file(path / "diffusion_pytorch_model.safetensors")
    net, info = NOVATransformer3DModel.from_pretrained(path, output_loading_info=True)
    assert not any(info.values()), info
    state = net.state_dict()
    assert set(state) == set(stored)
    assert all(torch.equal(state[key], value) for key, value in stored.items())


def test_condition_of_prompts():
    vectors = recorded.vectors("t2i")
    path = recorded.folder("t2i") / "transformer"
    net = NOVATransformer3DModel.from_pretrained(path)
    text = vectors["text.embeds"]  # filled up from the buffer already
    length = torch.full((len(text),), text.size(1))
    recorded.assert_near(net.text_embed(text, length), vectors["text.c"], 1e-5)
