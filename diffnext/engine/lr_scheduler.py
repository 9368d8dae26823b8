# SPDX-License-Identifier: Apache-2.0
"""Learning rates as closed-form functions of the step, so that nothing has to be saved to resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

Schedule = Callable[[int], float]  # number of finished steps -> learning rate of the next one


def steps_with_decay(step: int, *, decay_steps: Sequence[int], gamma: float) -> float:
    """Multiplier gamma ** (number of `decay_steps` that are reached)."""
    return gamma ** sum(step >= boundary for boundary in decay_steps)


def cosine_decay(step: int, *, max_steps: int) -> float:
    """Multiplier that falls from 1 at step 0 to 0 at `max_steps`, half a cosine wave."""
    progress = min(step / max(max_steps, 1), 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def polynomial_decay(step: int, *, max_steps: int, power: float) -> float:
    """Multiplier (1 - progress) ** power, from 1 at step 0 to 0 at `max_steps`."""
    return (1.0 - min(step / max(max_steps, 1), 1.0)) ** power


def warm_up(step: int, *, steps: int, factor: float) -> float:
    """Multiplier that rises linearly to 1: alpha + (1 - alpha) * factor with alpha = (step + 1) / steps."""
    if step >= steps:
        return 1.0
    alpha = (step + 1) / steps
    return alpha + (1.0 - alpha) * factor


def make_schedule(
    policy: str,
    *,
    base_lr: float,
    max_steps: int,
    min_lr: float = 0.0,
    decay_steps: Sequence[int] = (),
    decay_gamma: float = 0.5,
    decay_power: float = 2.0,
    warm_up_steps: int = 0,
    warm_up_factor: float = 0.0,
) -> Schedule:
    """Join a policy and its warm-up to a function of the step.

    Args:
        policy: "constant" (or ""), "steps_with_decay", "cosine_decay", "linear_decay" or
            "polynomial_decay".
        min_lr: where the last three end, at `max_steps`; their decay begins after the warm-up.
        decay_steps: steps from which on "steps_with_decay" multiplies once more by `decay_gamma`.
        decay_power: exponent of "polynomial_decay".
        warm_up_factor: multiplier that the warm-up starts from.

    Raises:
        ValueError: an unknown policy, a rate that would rise, or boundaries that are no numbers or do
            not ascend.
    """
    _check_boundaries(decay_steps)
    falling = {  # from 1 to 0 in the steps after the warm-up
        "cosine_decay": cosine_decay,
        "linear_decay": partial(polynomial_decay, power=1.0),
        "polynomial_decay": partial(polynomial_decay, power=decay_power),
    }
    known = sorted(["constant", "steps_with_decay", *falling])
    if policy not in ("", *known):
        raise ValueError(f"SOLVER.LR_POLICY is {policy!r}; there are {known}")
    if policy in falling and min_lr > base_lr:
        raise ValueError(
            f"SOLVER.MIN_LR is {min_lr:g}, above SOLVER.BASE_LR {base_lr:g}; {policy} falls"
        )

    def schedule(step: int) -> float:
        if step < warm_up_steps:
            return base_lr * warm_up(step, steps=warm_up_steps, factor=warm_up_factor)
        if policy in falling:
            share = falling[policy](step - warm_up_steps, max_steps=max_steps - warm_up_steps)
            return min_lr + (base_lr - min_lr) * share
        if policy == "steps_with_decay":
            return base_lr * steps_with_decay(step, decay_steps=decay_steps, gamma=decay_gamma)
        return base_lr

    return schedule


def _check_boundaries(decay_steps: Sequence[int]) -> None:
    for step in decay_steps:
        whole = isinstance(step, int) or (isinstance(step, float) and step.is_integer())
        if isinstance(step, bool) or not whole or step < 0:
            raise ValueError(
                f"SOLVER.DECAY_STEPS has {step!r} ({type(step).__name__}), wanted are whole numbers "
                "from 0 up"
            )
    if list(decay_steps) != sorted(decay_steps):
        raise ValueError(f"SOLVER.DECAY_STEPS must ascend, found {list(decay_steps)}")
