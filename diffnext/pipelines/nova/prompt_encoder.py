# SPDX-License-Identifier: Apache-2.0
"""The text encoder of a model folder by itself, for embedding prompts ahead of training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffnext.models.text_encoders.loading import describe_text_encoder, hash_tokenizer
from diffnext.pipelines.loading import ComponentLoader
from diffnext.pipelines.nova.prompts import encode_prompts

NOT_OF_ENCODING = ("architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")


class PromptEncoder:
    """Texts to states, as training computes them from texts.

    Args:
        model: folder of a model with text_encoder/, tokenizer/ and transformer/.
        device, dtype: where and in which precision the encoder computes.
    """

    def __init__(self, model: str, *, device: str = "cpu", dtype: torch.dtype) -> None:
        self.max_length = text_length(model)
        loader = ComponentLoader(model, {}, dtype)
        self.tokenizer = loader.tokenizer()
        self.text_encoder = loader.text_encoder().to(device)

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts. Returns float32 (L_i, D) each, L_i the text's own length."""
        states = encode_prompts(self.tokenizer, self.text_encoder, texts, self.max_length)
        return [one.float().cpu().numpy() for one in states]


def describe_prompt_encoder(model: str, dtype: torch.dtype) -> dict[str, Any]:
    """Say what decides the embedding of a text, without loading weights.

    Class, width and sha256 of the weights as `describe_text_encoder`; the configuration; a hash of
    the tokenizer; tokens at which prompts are cut; precision.

    Raises:
        ValueError: the folder lacks one of the parts.
    """
    folder = Path(model) / "text_encoder"
    length = text_length(model)
    if not (folder / "config.json").is_file():
        raise ValueError(f"--text-model {model}: there is no text_encoder/config.json in it")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = ComponentLoader(model, {}, dtype).tokenizer()
    if tokenizer is None:
        raise ValueError(f"--text-model {model}: it has no tokenizer")
    stated = {
        **describe_text_encoder(folder),
        "config": {
            key: config[key]
            for key in sorted(config)
            if key not in NOT_OF_ENCODING and not key.startswith("_")
        },
        "tokenizer_sha256": hash_tokenizer(tokenizer),
        "max_length": length,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if stated["weights_sha256"] is None:
        raise ValueError(f"--text-model {model}: text_encoder/ has no weights")
    return stated


def text_length(model: str) -> int:
    """Tokens at which the network of a model cuts its prompts.

    Raises:
        ValueError: it reads none.
    """
    file = Path(model) / "transformer" / "config.json"
    if not file.is_file():
        raise ValueError(
            f"--text-model {model}: a model folder is wanted, with text_encoder/, tokenizer/ and "
            "transformer/config.json, which says how many tokens the network reads"
        )
    config = json.loads(file.read_text(encoding="utf-8"))
    if not config.get("text_token_dim"):
        raise ValueError(f"--text-model {model}: its network reads no text")
    return config.get("text_token_len", 256)
