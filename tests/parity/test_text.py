# SPDX-License-Identifier: Apache-2.0
"""Tokenizer, text encoder and condition tokens give the numbers of the original."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import CodeGenTokenizerFast

from diffnext.models.text_encoders.phi import PhiEncoderModel
from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from diffnext.pipelines.nova.prompts import encode_prompts
from tests.parity import recorded
from tests.parity.recorded import assert_near

TOLERANCE = 1e-5
PROMPTS = ["a red cat on a mat", "two birds"]
GOLDEN = recorded.HERE / "golden" / "text"


def hidden(folder, ids):
    encoder, info = PhiEncoderModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        return encoder.eval()(ids).last_hidden_state


@pytest.mark.parametrize("place", ["golden", "recorded"])
def test_a_prompt_becomes_the_same_states(place):
    if place == "golden":
        tokenizer, encoder, vectors = GOLDEN, GOLDEN, load_file(GOLDEN / "vectors.safetensors")
    else:
        folder, vectors = recorded.folder("t2i"), recorded.vectors("t2i")
        tokenizer, encoder = folder / "tokenizer", folder / "text_encoder"
    ids = CodeGenTokenizerFast.from_pretrained(tokenizer)(PROMPTS[0]).input_ids
    assert ids == vectors["text.ids"][0].tolist()
    assert_near(hidden(encoder, vectors["text.ids"]), vectors["text.hidden"], TOLERANCE)


def test_prompts_become_the_same_condition_tokens():
    folder, vectors = recorded.folder("t2i"), recorded.vectors("t2i")
    tokenizer = CodeGenTokenizerFast.from_pretrained(folder / "tokenizer")
    encoder = PhiEncoderModel.from_pretrained(folder / "text_encoder")
    embed = NOVATransformer3DModel.from_pretrained(folder / "transformer").text_embed
    states = encode_prompts(tokenizer, encoder, PROMPTS, embed.num_tokens)
    assert [len(one) for one in states] == [12, 9]
    for one, wanted in zip(states, vectors["text.embeds"], strict=True):
        assert_near(one, wanted[: len(one)], TOLERANCE)
        torch.testing.assert_close(wanted[len(one) :], embed.weight[len(one) : 12])
    with torch.no_grad():
        assert_near(embed(states), vectors["text.c"], TOLERANCE)
