# SPDX-License-Identifier: Apache-2.0
"""What looks at a run while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffnext.data.held_out import HeldOut
from diffnext.engine.build.config import Config
from diffnext.engine.build.plan import Plan
from diffnext.engine.build.samples import dtype_of, make_draw
from diffnext.engine.coordinator import Coordinator
from diffnext.engine.ema import EMA
from diffnext.engine.hooks.evaluate import EvaluationHook
from diffnext.engine.hooks.samples import SampleHook
from diffnext.pipelines.train_base import Grid
from diffnext.utils.writers import Curves, Writer


def make_samples(
    cfg: Config,
    coordinator: Coordinator,
    *,
    role: str,
    ema: EMA | None,
    curves: Sequence[Curves],
) -> SampleHook:
    """The hook that draws samples; see its class."""
    env = coordinator.env
    return SampleHook(
        coordinator.folder / "samples",
        make_draw(cfg, env),
        curves=curves,
        role=role,
        every=cfg.SAMPLE.EVERY,
        ema=ema,
        dtype=dtype_of(cfg, env.device),
    )


def make_evaluation(
    cfg: Config,
    plan: Plan,
    *,
    role: str,
    ema: EMA | None,
    writers: Sequence[Writer],
    before: Callable[[], None],
) -> EvaluationHook:
    """The hook that measures the loss on the held-out data of a plan; see its class."""
    reading = ("short_caption", "verify", "on_damage")
    given = {k: v for k, v in cfg.TRAIN.LOADER_CONFIG.items() if k in reading}
    data = HeldOut(
        plan.held_out.readers,
        samples=cfg.EVAL.SAMPLES,
        batch_size=cfg.TRAIN.BATCH_SIZE,
        seed=cfg.RNG_SEED,
        **given,
    )
    return EvaluationHook(
        data,
        writers,
        role=role,
        every=cfg.EVAL.EVERY,
        grid=Grid(timesteps=cfg.EVAL.TIMESTEPS, mask_ratios=cfg.EVAL.MASK_RATIOS),
        ema=ema,
        before=before,
    )
