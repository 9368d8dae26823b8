# SPDX-License-Identifier: Apache-2.0
"""Momentum whose steps are made orthogonal: trains small convolutions in far fewer steps than Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from diffnext.engine.muon import orthogonal


class Muon(torch.optim.Optimizer):
    """Nesterov momentum on kernels, each seen as a matrix (out, in * taps) and made orthogonal.

    Args:
        params: tensors of two dimensions or more.
        lr: length of a step; the spectral norm of a change is about lr * sqrt(max(1, rows / columns)).
        momentum: decay of the running gradient.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._move(param, lr=group["lr"], momentum=group["momentum"])

    def _move(self, param: nn.Parameter, *, lr: float, momentum: float) -> None:
        state = self.state[param]
        if "average" not in state:
            state["average"] = torch.zeros_like(param)
        average = state["average"].lerp_(param.grad, 1.0 - momentum)
        change = orthogonal(param.grad.lerp(average, momentum).flatten(1), dtype=torch.float32)
        scale = max(1.0, change.shape[0] / change.shape[1]) ** 0.5
        param.add_(change.view_as(param), alpha=-lr * scale)


def split_parameters(vae: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Inner kernels, which Muon takes, and all else: biases, norms, first and last layers."""
    ends = ("conv_in", "conv_out", "quant_conv")
    inner: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, param in vae.named_parameters():
        outer = any(end in name for end in ends)
        (others if outer or param.dim() < 2 else inner).append(param)
    return inner, others
