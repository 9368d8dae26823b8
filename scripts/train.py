# SPDX-License-Identifier: Apache-2.0
"""Train a model: `diffnext train`."""

from __future__ import annotations

import sys

from diffnext.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
