# SPDX-License-Identifier: Apache-2.0
"""The Phi language model as an encoder of prompts."""

from __future__ import annotations

from torch import Tensor
from transformers import PhiForCausalLM
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
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return BaseModelOutput(last_hidden_state=output.last_hidden_state)
