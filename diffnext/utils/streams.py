# SPDX-License-Identifier: Apache-2.0
"""Standard streams of processes that run for long, whoever starts them."""

from __future__ import annotations

import os
import sys


def open_streams() -> None:
    """Let streams that whoever started this has closed lead nowhere.

    Else the next file that is opened gets their number, and with it what libraries write there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # by the lowest number that is free
