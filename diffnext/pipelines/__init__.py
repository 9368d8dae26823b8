# SPDX-License-Identifier: Apache-2.0
"""Pipelines: what a family of networks makes of prompts, and of records."""

from __future__ import annotations

import importlib
from typing import Any

_ADDRESSES = {
    "NOVAPipeline": "diffnext.pipelines.nova.pipeline_nova",
    "NOVAC2IPipeline": "diffnext.pipelines.nova.pipeline_nova_c2i",
}


def __getattr__(name: str) -> Any:
    """Import a pipeline when it is asked for, so that this package stays light."""
    if name not in _ADDRESSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ADDRESSES[name]), name)
