# SPDX-License-Identifier: Apache-2.0
"""The Phi language model as an encoder of prompts."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PhiForCausalLM
from transformers.modeling_outputs import BaseModelOutput


class PhiEncoderModel(PhiForCausalLM):
    """Phi without its last step: token ids in, hidden states after the final LayerNorm out.

    Weights keep the names of the language model (`model.*`, `lm_head.*`), so that a published
    checkpoint loads and saves with nothing missing. Configurations with `rope_theta` and
    `partial_rotary_factor` at top level and those with `rope_parameters` are both read.
    """

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """Encode tokens; each sees itself and those before it.

        Args:
            input_ids: (B, L) int64. Padding on the right changes nothing on its left.
            attention_mask: (B, L), 1 for tokens and 0 for padding; needed for padding on the left.

        Returns:
            `last_hidden_state` (B, L, D).
        """
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=Unkept(),
            use_cache=False,
        )
        return BaseModelOutput(last_hidden_state=output.last_hidden_state)


class Unkept(DynamicCache):
    """A cache of keys and values that keeps none.

    Where there is no cache, transformers looks among the positions for prompts that are packed into one
    row. That is a value read from a GPU: the host would wait for all that it has begun.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """The keys and values of a layer, as they are."""
        return key_states, value_states
