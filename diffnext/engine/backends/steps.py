# SPDX-License-Identifier: Apache-2.0
"""One step of an optimizer, and the state that it keeps."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next step; groups of parameters may have their share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def update(
    optimizer: torch.optim.Optimizer,
    grads: list[Tensor],
    *,
    divisor: Tensor | None,
    overflow: Tensor,
) -> None:
    """Step with gradients divided by `divisor`, or not at all if `overflow` is 1.

    A fused optimizer decides on the device; for others the host waits for the answer.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale = divisor
        optimizer.found_inf = overflow
        optimizer.step()
        del optimizer.grad_scale
        del optimizer.found_inf
        return
    if overflow.item():
        return
    if divisor is not None:
        torch._foreach_div_(grads, divisor)
    optimizer.step()


def begin_state(optimizer: torch.optim.Optimizer, params: Iterable[nn.Parameter]) -> None:
    """Let an optimizer make its state for some parameters: gradients of zero, learning rate of zero."""
    for param in params:
        param.grad = torch.zeros_like(param, requires_grad=False)
    set_lr(optimizer, 0.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def as_tensor(value: Tensor | float) -> Tensor:
    """A tensor itself, a number as one."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (int, float)):
        return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    raise ValueError(f"an optimizer keeps {value!r}, which is neither tensor nor number")


def state_device(optimizer: torch.optim.Optimizer, entry: str, *, beside: Tensor) -> torch.device:
    """Where a state goes that has not the shape of its weight, as torch's own load_state_dict rules.

    A counter of steps stays on the host, unless a kernel reads it; all else is beside the weight.
    """
    in_kernel = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    if entry == "step" and not in_kernel:
        return torch.device("cpu")
    return beside.device
