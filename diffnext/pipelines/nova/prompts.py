# SPDX-License-Identifier: Apache-2.0
"""Prompts to states of the text encoder, one tensor of its own length for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

Prompt = str | np.ndarray | Tensor


@torch.no_grad()
def encode_prompts(
    tokenizer: Callable | None,
    text_encoder: nn.Module | None,
    prompts: Sequence[Prompt],
    max_length: int,
    *,
    device: torch.device | str | None = None,
    full_length: bool = False,
) -> list[Tensor]:
    """Encode texts; pass on what is encoded already.

    Args:
        tokenizer, text_encoder: needed for texts; None where all prompts are arrays.
        prompts: texts, or arrays (L, D) that an encoder made.
        max_length: longer prompts are cut to so many tokens.
        device: where the encoder computes; None for where it is.
        full_length: compute with texts padded to `max_length`, as the published model samples,
            not to the longest of them. The states differ in rounding alone, which sampling
            multiplies until it shows.

    Returns:
        For each prompt (L_i, D), L_i at most `max_length`; (0, D) for an empty text.

    Raises:
        ValueError: a text without a text encoder, or an array that is not two-dimensional.
    """
    states: list[Tensor | None] = [None] * len(prompts)
    texts = [i for i, prompt in enumerate(prompts) if isinstance(prompt, str)]
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            states[i] = _given_states(prompt, i)[:max_length]
    if texts:
        encoded = _encode_texts(
            tokenizer,
            text_encoder,
            [prompts[i] for i in texts],
            max_length,
            device,
            full_length=full_length,
        )
        for i, one in zip(texts, encoded, strict=True):
            states[i] = one
    return states


def _given_states(prompt: np.ndarray | Tensor, index: int) -> Tensor:
    if not isinstance(prompt, (np.ndarray, Tensor)):
        raise ValueError(f"prompt {index} is {prompt!r}; a text or an array is wanted")
    states = torch.as_tensor(prompt)
    if states.dim() != 2:
        shape = tuple(states.shape)
        raise ValueError(f"prompt {index} is an array of shape {shape}; (length, width) is wanted")
    return states


def _encode_texts(
    tokenizer: Callable | None,
    text_encoder: nn.Module | None,
    texts: Sequence[str],
    max_length: int,
    device: torch.device | str | None,
    *,
    full_length: bool,
) -> list[Tensor]:
    if tokenizer is None or text_encoder is None:
        raise ValueError(
            f"prompt {texts[0]!r} is a text, and no text encoder is loaded; load the pipeline with "
            "its tokenizer and text_encoder, or pass embeddings (length, width)"
        )
    device = text_encoder.device if device is None else device
    nothing = torch.zeros(
        0, text_encoder.config.hidden_size, dtype=text_encoder.dtype, device=device
    )
    states = dict.fromkeys(texts, nothing)
    ids = {text: tokenizer(text).input_ids[:max_length] for text in states}
    ids = {text: tokens for text, tokens in ids.items() if tokens}
    if ids:
        # the encoder is causal: what pads on the right is never seen by the tokens of a prompt
        length = max_length if full_length else max(len(tokens) for tokens in ids.values())
        padded = [tokens + [0] * (length - len(tokens)) for tokens in ids.values()]
        pinned = torch.device(device).type == "cuda"  # else the host waits for what is before
        tokens_in = torch.tensor(padded, pin_memory=pinned).to(device, non_blocking=True)  # (B, L)
        hidden = text_encoder(tokens_in).last_hidden_state  # (B, L, D)
        for (text, tokens), one in zip(ids.items(), hidden, strict=True):
            states[text] = one[: len(tokens)]
    return [states[text] for text in texts]
