# SPDX-License-Identifier: Apache-2.0
"""What a cache was put together from: stated in its identity, with what that was put together from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from diffnext.data import urls
from diffnext.data.cache_identity import upgrade_identity
from diffnext.data.records.identity import LINEAGE
from diffnext.data.tools.opening import Cache


def derived(caches: Sequence[Cache], how: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a cache that is made of the records of others, which have the same.

    Args:
        how: "filter", "merge" or "split".
        options: of that, as JSON can hold them.
    """
    identity = upgrade_identity(caches[0].identity or {})[0]
    identity[LINEAGE] = {
        "made_by": f"diffnext cache {how}",
        "options": dict(options),
        "of": [_origin(cache) for cache in caches],
    }
    return identity


def _origin(cache: Cache) -> dict[str, Any]:
    path = cache.path if urls.is_url(cache.path) else os.path.abspath(cache.path)
    origin = {"path": path, "records": len(cache)}
    before = (cache.identity or {}).get(LINEAGE)
    return origin if before is None else {**origin, LINEAGE: before}
