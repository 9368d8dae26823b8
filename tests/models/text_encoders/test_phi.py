# SPDX-License-Identifier: Apache-2.0
"""Phi as an encoder: configurations of any age, causal, the weights of the language model."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PhiConfig, PhiForCausalLM

from diffnext.models.text_encoders.phi import PhiEncoderModel

TINY = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
ROPE = {"rope_theta": 500.0, "partial_rotary_factor": 0.25}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PhiEncoderModel(
        PhiConfig(**TINY, rope_parameters={"rope_type": "default", **ROPE})
    ).eval()


def hidden(model, ids, **options):
    with torch.no_grad():
        return model(ids, **options).last_hidden_state


@pytest.mark.parametrize("age", ["old", "new"])
def test_configurations_before_and_after_transformers_5(model, age, tmp_path):
    model.save_pretrained(tmp_path)
    config = {"model_type": "phi", **TINY}
    config |= ROPE if age == "old" else {"rope_parameters": {"rope_type": "default", **ROPE}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = torch.arange(10).view(1, -1)
    other = PhiEncoderModel.from_pretrained(tmp_path)
    assert torch.equal(hidden(other, ids), hidden(model, ids))


def test_it_is_the_language_model_before_its_last_step(model, tmp_path):
    model.save_pretrained(tmp_path)
    language, info = PhiForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    ids = torch.arange(10).view(1, -1)
    with torch.no_grad():
        wanted = language(ids).logits
        torch.testing.assert_close(model.lm_head(hidden(model, ids)), wanted)


def test_what_follows_a_prompt_does_not_change_it(model):
    ids = torch.arange(8).view(1, -1)
    padded = torch.cat([ids, torch.zeros(1, 5, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(hidden(model, padded)[:, :8], hidden(model, ids))


def test_padding_on_the_left_is_masked(model):
    ids, mask = torch.arange(8).view(1, -1), torch.ones(1, 8, dtype=torch.int64)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), ids], dim=1)
    mask = torch.cat([torch.zeros(1, 3, dtype=torch.int64), mask], dim=1)
    # rotary positions are relative, so the shift by the padding is without effect
    found = hidden(model, padded, attention_mask=mask)[:, 3:]
    torch.testing.assert_close(found, hidden(model, ids), rtol=1e-4, atol=1e-5)


class Reads(TorchDispatchMode):
    """Counts the values that the host reads from tensors."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_value_is_read_on_the_way(model):
    with Reads() as reads:
        torch.ones(1).item()
        hidden(model, torch.arange(10).view(2, -1))
    assert reads.count == 1
