# SPDX-License-Identifier: Apache-2.0
"""Muon for the matrices inside a network, AdamW for everything else, in one optimizer.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes each step of a matrix
orthogonal, so that all directions of its input and output move alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Odd polynomial that drives singular values towards 1, from the reference above."""

RMS = 0.2
"""Root mean square of an AdamW step in units of the learning rate, eq. 4 of arXiv:2502.16982."""


def orthogonal(matrices: Tensor, *, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Roughly U V^T of matrices U S V^T, (..., M, N): singular values come to lie near 1.

    Args:
        dtype: of the products; the iteration is stable in bfloat16.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    x = x.reshape(-1, *x.shape[-2:])
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.to(matrices.dtype)
    return (x.mT if tall else x).reshape(matrices.shape)


def inner_matrices(net: nn.Module, blocks: Iterable[nn.Module]) -> set[nn.Parameter]:
    """The weights of linear layers and convolutions within `blocks`: what Muon takes."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    modules = (module for block in blocks for module in block.modules())
    return {m.weight for m in modules if isinstance(m, layers) and m.weight.requires_grad}


class Muon(torch.optim.Optimizer):
    """Muon on the groups with `"muon": True`, AdamW on the others.

    A step of Muon is scaled to the size of AdamW's (arXiv:2502.16982), so that one learning rate and one
    weight decay serve both.

    Args:
        params: parameter groups; those of Muon hold tensors of two dimensions or more, which are seen
            as matrices (first dimension, all others).
        lr: learning rate.
        betas: AdamW's decay rates; the first is Muon's momentum as well.
        eps: added to AdamW's denominator.
        weight_decay: decoupled, for both.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"muon": False})
        for group in self.param_groups:
            flat = [tuple(p.shape) for p in group["params"] if p.dim() < 2]
            if group["muon"] and flat:
                raise ValueError(f"Muon takes matrices, found parameters of shape {flat[:3]}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                move = self._muon if group["muon"] else self._adam
                move(params, group)
        return loss

    def _muon(self, params: list[nn.Parameter], group: dict) -> None:
        momentum = group["betas"][0]
        alike: dict[torch.Size, list[nn.Parameter]] = {}
        for param in params:
            if isinstance(param, DTensor):
                raise ValueError("Muon needs whole matrices; with fsdp take SOLVER.OPTIMIZER AdamW")
            alike.setdefault(param.shape, []).append(param)
        for shape, same in alike.items():
            averages = [self._state(p, ("average",))["average"] for p in same]
            grads = [p.grad for p in same]
            torch._foreach_lerp_(averages, grads, 1 - momentum)
            ahead = torch._foreach_lerp(grads, averages, momentum)  # Nesterov
            change = orthogonal(torch.stack(ahead).flatten(2))
            size = RMS * max(change.shape[-2:]) ** 0.5
            steps = change.view(len(same), *shape).unbind()
            torch._foreach_add_(same, steps, alpha=-group["lr"] * size)

    def _adam(self, params: list[nn.Parameter], group: dict) -> None:
        beta1, beta2 = group["betas"]
        states = [self._state(p, ("average", "square")) for p in params]
        averages = [state["average"] for state in states]
        squares = [state["square"] for state in states]
        counts = [state.setdefault("step", torch.zeros(())) for state in states]
        grads = [p.grad for p in params]
        torch._foreach_add_(counts, 1)
        torch._foreach_lerp_(averages, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        count = counts[0].item()  # on the host
        scale = torch._foreach_div(squares, 1 - beta2**count)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_addcdiv_(params, averages, scale, -group["lr"] / (1 - beta1**count))

    def _state(self, param: nn.Parameter, names: tuple[str, ...]) -> dict[str, Tensor]:
        state = self.state[param]
        if not state:
            state.update({name: torch.zeros_like(param) for name in names})
        return state
