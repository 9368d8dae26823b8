# SPDX-License-Identifier: Apache-2.0
"""Prompts become the states of their own tokens, whatever stands beside them."""

import numpy as np
import pytest
import torch

from diffnext.pipelines.nova.prompts import encode_prompts
from tests.pipelines.tiny import text_parts

TEXTS = ["a red cat", "", "two birds on a mat", "a red cat"]


@pytest.fixture(scope="module")
def parts():
    return text_parts()


@pytest.mark.parametrize("length", [4, 12])
@pytest.mark.parametrize("full_length", [False, True])
def test_each_text_is_encoded_as_if_alone_and_cut(parts, length, full_length):
    found = encode_prompts(*parts.values(), TEXTS, length, full_length=full_length)
    assert found[1].shape == (0, 64)
    for text, states in zip(TEXTS, found, strict=True):
        ids = parts["tokenizer"](text).input_ids[:length]
        assert len(states) == len(ids)
        if ids:
            with torch.no_grad():
                wanted = parts["text_encoder"](torch.tensor([ids])).last_hidden_state[0]
            torch.testing.assert_close(states, wanted, rtol=1e-4, atol=1e-5)  # another batch size


def test_a_text_that_comes_twice_is_encoded_once(parts):
    seen = []
    hook = parts["text_encoder"].register_forward_pre_hook(lambda _, args: seen.extend(args))
    encode_prompts(*parts.values(), TEXTS, 12)
    hook.remove()
    assert [len(ids) for ids in seen] == [2]


def test_arrays_are_passed_on_and_cut():
    given = [np.ones((3, 8), np.float16), torch.zeros(9, 8)]
    found = encode_prompts(None, None, given, 5)
    assert [tuple(states.shape) for states in found] == [(3, 8), (5, 8)]
    assert found[0].dtype == torch.float16 and found[0].eq(1).all()
