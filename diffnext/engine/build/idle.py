# SPDX-License-Identifier: Apache-2.0
"""Options that are set and cannot act."""

from __future__ import annotations

from diffnext.engine.build.config import Config


def idle_options(cfg: Config) -> list[str]:
    """What a user may have set in vain, one warning each."""
    solver, steps = cfg.SOLVER, "steps_with_decay"
    found = {
        "SOLVER.BASE_LR is 0, at which nothing learns": solver.BASE_LR == 0,
        f"SOLVER.DECAY_STEPS is {list(solver.DECAY_STEPS)} and acts with SOLVER.LR_POLICY {steps} "
        f"alone, which is {solver.LR_POLICY!r}": solver.DECAY_STEPS and solver.LR_POLICY != steps,
        f"SOLVER.LR_POLICY is {steps} without SOLVER.DECAY_STEPS: the rate stays": (
            solver.LR_POLICY == steps and not solver.DECAY_STEPS
        ),
        f"SOLVER.WARM_UP_STEPS is {solver.WARM_UP_STEPS} and SOLVER.MAX_STEPS {solver.MAX_STEPS}: the "
        "rate never reaches SOLVER.BASE_LR": solver.WARM_UP_STEPS > solver.MAX_STEPS,
        "EVAL.DATASET is set and EVAL.EVERY is 0: nothing is evaluated": (
            cfg.EVAL.DATASET and cfg.EVAL.EVERY == 0
        ),
        "SAMPLE.PROMPTS is set and SAMPLE.EVERY is 0: nothing is drawn": (
            cfg.SAMPLE.PROMPTS and cfg.SAMPLE.EVERY == 0
        ),
    }
    return [f"WARNING    {what}" for what, so in found.items() if so]
