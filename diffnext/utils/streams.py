# SPDX-License-Identifier: Apache-2.0
"""Standard streams of processes that run for long, whoever starts them."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def open_streams() -> None:
    """Let streams that whoever started this has closed lead nowhere.

    Else the next file that is opened gets their number, and with it what libraries write there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # by the lowest number that is free


def lead_nowhere(*streams: TextIO) -> None:
    """Let streams that nobody reads any more lead nowhere.

    Else Python fails once more at its exit, in writing what they still hold, and changes the exit code.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
