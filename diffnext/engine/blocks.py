# SPDX-License-Identifier: Apache-2.0
"""The repeated blocks of a network: what is sharded and compiled one by one."""

from __future__ import annotations

from torch import nn


def repeated_blocks(net: nn.Module) -> list[nn.Module]:
    """The entries of every outermost ModuleList that hold parameters, in order."""
    if isinstance(net, nn.ModuleList):
        return [block for block in net if next(block.parameters(), None) is not None]
    blocks: list[nn.Module] = []
    for child in net.children():
        blocks.extend(repeated_blocks(child))
    return blocks


def compile_blocks(net: nn.Module) -> int:
    """Compile each repeated block in place (its names stay); return how many there are."""
    blocks = repeated_blocks(net)
    for block in blocks:
        block.compile()
    return len(blocks)
