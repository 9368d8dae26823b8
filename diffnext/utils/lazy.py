# SPDX-License-Identifier: Apache-2.0
"""Names of a package whose modules are imported when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def on_demand(package: str, addresses: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a package, so that one of its names does not cost the imports of the others.

    Args:
        package: its `__name__`.
        addresses: each name, and the module that has it.
    """

    def find(name: str) -> Any:
        if name not in addresses:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(addresses[name]), name)

    return find
