# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the whole run, so that it goes on exactly, and beside it the network for others to load."""

from diffnext.utils.lazy import on_demand

__getattr__ = on_demand(
    __name__,
    {
        "RESETS": "diffnext.engine.checkpoint.content",
        "Checkpoint": "diffnext.engine.checkpoint.folders",
        "CheckpointManager": "diffnext.engine.checkpoint.manager",
        "Content": "diffnext.engine.checkpoint.content",
        "Score": "diffnext.engine.checkpoint.pointers",
        "Start": "diffnext.engine.checkpoint.start",
        "check_averages": "diffnext.engine.checkpoint.content",
        "check_data": "diffnext.engine.checkpoint.start",
        "check_network": "diffnext.engine.checkpoint.start",
        "find": "diffnext.engine.checkpoint.folders",
        "find_flaw": "diffnext.engine.checkpoint.folders",
        "find_start": "diffnext.engine.checkpoint.start",
        "listed": "diffnext.engine.checkpoint.folders",
        "newest": "diffnext.engine.checkpoint.folders",
    },
)
