# SPDX-License-Identifier: Apache-2.0
"""Generate pictures and videos: `diffnext generate`."""

from __future__ import annotations

import sys

from diffnext.cli.generate import main

if __name__ == "__main__":
    sys.exit(main())
