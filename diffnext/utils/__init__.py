# SPDX-License-Identifier: Apache-2.0
"""Tools that know nothing of models."""

from __future__ import annotations

import importlib
from typing import Any

_ADDRESSES = {
    "Registry": "diffnext.utils.registry",
    "export_to_image": "diffnext.utils.export_utils",
    "export_to_video": "diffnext.utils.export_utils",
}


def __getattr__(name: str) -> Any:
    """Import a tool when it is asked for, so that this package stays light."""
    if name not in _ADDRESSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ADDRESSES[name]), name)
