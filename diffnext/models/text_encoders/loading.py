# SPDX-License-Identifier: Apache-2.0
"""Say which text encoder a folder holds, without loading it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from diffnext.utils.hashes import sha256_of

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model*.bin")
PROBE = "It's 1,024 px; 3.5x  faster!\n\tUnbelievably na\u00efve \u2014 \u732b \U0001f408, don't you think?"


def describe_text_encoder(folder: str | Path) -> dict[str, Any]:
    """Class, width of the states, and sha256 of the weights (None where there are none).

    A cache of prompt embeddings states this as `text_encoder` in its identity; a run compares it.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = [files for files in (sorted(folder.glob(name)) for name in WEIGHTS) if files]
    return {
        "class": (config.get("architectures") or [None])[0],
        "width": config.get("hidden_size"),
        "weights_sha256": sha256_of(found[0]) if found else None,
    }


def hash_tokenizer(tokenizer: Any) -> str:
    """sha256 of what a tokenizer does: its vocabulary, and the ids of a text of many kinds.

    Its files are not hashed: the same tokenizer saved again has others.
    """
    text = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer(PROBE).input_ids])
    return hashlib.sha256(text.encode()).hexdigest()
