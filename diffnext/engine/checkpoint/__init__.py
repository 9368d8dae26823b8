# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the whole run, so that it goes on exactly, and beside it the network for others to load."""

from diffnext.engine.checkpoint.content import RESETS, Content
from diffnext.engine.checkpoint.folders import Checkpoint, find, find_flaw, listed, newest
from diffnext.engine.checkpoint.manager import CheckpointManager
from diffnext.engine.checkpoint.pointers import Score
from diffnext.engine.checkpoint.start import Start, check_data, check_network, find_start

__all__ = [
    "RESETS",
    "Checkpoint",
    "CheckpointManager",
    "Content",
    "Score",
    "Start",
    "check_data",
    "check_network",
    "find",
    "find_flaw",
    "find_start",
    "listed",
    "newest",
]
