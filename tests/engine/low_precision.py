# SPDX-License-Identifier: Apache-2.0
"""As a script: in what type each stage of ZeRO computes where autocast answers as on a GPU."""

from __future__ import annotations

import json
import sys

import torch

from diffnext.distributed import env as processes
from diffnext.engine.backends.deepspeed import DeepSpeedBackend
from diffnext.engine.backends.deepspeed_config import merge_config
from diffnext.engine.optim import optimizer_factory
from tests.engine.runs import ALONE
from tests.engine.toy import WIDTH, ToyNet, toy_net

_is_autocast_enabled = torch.is_autocast_enabled


def as_on_a_gpu(device_type: str = "cpu") -> bool:
    """Without an argument torch answers for CUDA, whatever the device of the run is."""
    return _is_autocast_enabled(device_type)


def types(net: ToyNet, call: object, around: torch.autocast) -> list[str]:
    """Types of what each linear layer makes, and then of its weights."""
    layers = [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)]
    seen: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *args: seen.append(str(args[2].dtype)))
        for layer in layers
    ]
    with around:
        call(torch.ones(2, WIDTH))
    for hook in hooks:
        hook.remove()
    return [*sorted(set(seen)), *sorted({str(layer.weight.dtype) for layer in layers})]


def look(precision: str) -> None:
    make = optimizer_factory("adamw", lr=1e-2, weight_decay=0.0, beta2=0.95)
    for stage in range(4):
        config = merge_config(
            {"zero_optimization": {"stage": stage}},
            batch_size=2,
            accum_steps=1,
            world=1,
            precision=precision,
            max_norm=0.0,
        )
        backend = DeepSpeedBackend(ALONE, precision=precision, config=config)
        nets = {"student": toy_net(), "teacher": toy_net().requires_grad_(False)}
        for role, net in nets.items():
            call = backend.add(role, net, make if role == "student" else None)
            found = types(net, call, backend.autocast())
            row = {"precision": precision, "stage": stage, "role": role, "types": found}
            print(json.dumps(row), flush=True)


def main(precisions: list[str]) -> None:
    torch.is_autocast_enabled = as_on_a_gpu
    for precision in precisions:
        look(precision)
    processes.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
