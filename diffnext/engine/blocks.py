# SPDX-License-Identifier: Apache-2.0
"""The repeated blocks of a network: what is sharded, compiled and computed again one by one."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

KEEPS = {  # operators by the kind of their results, as autograd sees them on a CPU and on a GPU
    "matmul": ("mm", "addmm", "bmm", "baddbmm", "convolution"),
    "attention": (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    ),
}


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


def recompute_blocks(net: nn.Module, keep: Collection[str]) -> int:
    """Let each repeated block keep chosen results for backward, and compute all else again there.

    Args:
        keep: of KEEPS: "matmul" and "attention" are the costly ones.

    Returns:
        How many blocks there are.
    """
    operators = {_operator(name) for kind in keep for name in KEEPS[kind]}
    policy = partial(_policy, operators)
    blocks = repeated_blocks(net)
    for block in blocks:
        block.forward = partial(
            checkpoint,
            block.forward,
            use_reentrant=False,
            context_fn=partial(create_selective_checkpoint_contexts, policy),
        )
    return len(blocks)


def _operator(name: str) -> torch._ops.OpOverload:
    return getattr(torch.ops.aten, name).default


def _policy(
    operators: Collection[torch._ops.OpOverload], ctx: object, operator: object, *args, **kwargs
) -> CheckpointPolicy:
    return (
        CheckpointPolicy.MUST_SAVE if operator in operators else CheckpointPolicy.PREFER_RECOMPUTE
    )
