# SPDX-License-Identifier: Apache-2.0
"""Seeds from whatever they are to depend on. Importing this is quick."""

from __future__ import annotations

import hashlib


def mix(*parts: int | str) -> int:
    """Hash integers and strings to a seed in [0, 2**63)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
