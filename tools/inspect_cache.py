#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Look into a cache of latents: `diffnext cache info`, `show`, `verify`, `diff`, ..."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from diffnext import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `diffnext cache` with these words."""
    return cli.main(["cache", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
