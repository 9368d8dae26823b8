# SPDX-License-Identifier: Apache-2.0
"""The statement, beside the records, of what made them: VAE, precision, resize rule, version."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from diffnext.utils.files import write_text

IDENTITY = "diffnext.json"
LINEAGE = "lineage"  # which caches a cache was put together from; no part of what made its records


def read_identity(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the statement in the folder `path`; None if it has none, as folders of other software.

    Raises:
        ValueError: the file is not a JSON object.
    """
    file = os.path.join(path, IDENTITY)
    try:
        with open(file, encoding="utf-8") as stream:
            identity = json.load(stream)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(identity, dict):
        raise ValueError(f"{file} holds {type(identity).__name__}, wanted a JSON object")
    return identity


def write_identity(path: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
    """Store the statement in the folder `path`, all of it or nothing; make the folder if needed.

    A lineage that the folder states is kept, unless there is a new one.
    """
    os.makedirs(path, exist_ok=True)
    held = read_identity(path) or {}
    if LINEAGE in held:
        identity = {LINEAGE: held[LINEAGE], **identity}
    text = json.dumps(dict(identity), indent=2, ensure_ascii=False) + "\n"
    write_text(os.path.join(path, IDENTITY), text)
