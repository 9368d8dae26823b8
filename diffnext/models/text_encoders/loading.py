# SPDX-License-Identifier: Apache-2.0
"""Say which text encoder a folder holds, without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffnext.utils.hashes import sha256_of

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model*.bin")


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
