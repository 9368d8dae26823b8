# SPDX-License-Identifier: Apache-2.0
"""As a script: ZeRO in low precision, where DeepSpeed and autocast answer as on a GPU."""

from __future__ import annotations

import json
import sys

import torch

from diffnext.distributed import env as processes
from diffnext.engine.backends.deepspeed import DeepSpeedBackend
from diffnext.engine.backends.deepspeed_config import merge_config
from diffnext.engine.backends.zero import load_deepspeed
from diffnext.engine.optim import optimizer_factory
from tests.engine.runs import ALONE
from tests.engine.toy import WIDTH, ToyNet, toy_net

MAKE = optimizer_factory("adamw", lr=1e-2, weight_decay=0.0, beta2=0.95)
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


def backend_of(stage: int, precision: str) -> DeepSpeedBackend:
    config = merge_config(
        {"zero_optimization": {"stage": stage}, "fp16": {"loss_scale_window": 3}},
        batch_size=2,
        accum_steps=1,
        world=1,
        precision=precision,
        max_norm=0.0,
    )
    return DeepSpeedBackend(ALONE, precision=precision, config=config)


def look(precision: str) -> None:
    for stage in range(4):
        backend = backend_of(stage, precision)
        nets = {"student": toy_net(), "teacher": toy_net().requires_grad_(False)}
        for role, net in nets.items():
            call = backend.add(role, net, MAKE if role == "student" else None)
            found = types(net, call, backend.autocast())
            row = {"precision": precision, "stage": stage, "role": role, "types": found}
            print(json.dumps(row), flush=True)


def scales(backend: DeepSpeedBackend, factors: list[float]) -> list[float]:
    """The loss scale after each of some steps, whose losses have these factors."""
    learner, seen = backend.learners["student"], []
    for factor in factors:
        with backend.micro("student", last=True):
            loss = factor * learner.wrapped(torch.ones(2, WIDTH)).float().square().mean()
            backend.backward("student", loss)
        backend.step("student", lr=1e-3, max_norm=0.0)
        seen.append(float(learner.scaler.state_dict()["scale"]))
    return seen


def resume(stage: int) -> None:
    """Tell the scales of a run of float16, and those of one that takes its state over in the middle."""
    whole, second = backend_of(stage, "float16"), backend_of(stage, "float16")
    for backend in (whole, second):
        backend.add("student", toy_net(), MAKE)
    begin = scales(whole, [1.0, float("inf"), 1.0, 1.0])
    second.learners["student"].scaler.load_state_dict(whole.learners["student"].scaler.state_dict())
    rest = [[1.0, 1.0, float("inf"), float("inf"), 1.0]] * 2
    found = [
        scales(backend, factors) for backend, factors in zip((whole, second), rest, strict=True)
    ]
    print(json.dumps({"scaled": stage, "begin": begin, "whole": found[0], "resumed": found[1]}))


def main(precisions: list[str]) -> None:
    torch.is_autocast_enabled = as_on_a_gpu
    type(load_deepspeed().accelerator.get_accelerator()).is_fp16_supported = lambda self: True
    for precision in precisions:
        look(precision)
    for stage in (1, 3):
        resume(stage)
    processes.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
