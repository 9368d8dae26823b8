#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Encode pictures and videos into a cache of latents: `diffnext cache build`."""

from __future__ import annotations

import sys

from diffnext.cli.build_cache import main

if __name__ == "__main__":
    sys.exit(main())
