# SPDX-License-Identifier: Apache-2.0
"""What watches over a run and may end it."""

from __future__ import annotations

from diffnext.data.loader import Loader
from diffnext.data.origins import Origins
from diffnext.engine.build.config import Config
from diffnext.engine.coordinator import Coordinator
from diffnext.engine.hooks.base import Hook
from diffnext.engine.hooks.guard import GuardHook
from diffnext.engine.hooks.limit import TimeLimitHook


def make_guards(cfg: Config, coordinator: Coordinator, loader: Loader) -> list[Hook]:
    """Hooks that belong behind the log, so that what they end has been written."""
    guard = GuardHook(
        coordinator.logs / "nonfinite",
        every=cfg.SOLVER.DISPLAY,
        limit=cfg.SOLVER.MAX_SKIPPED,
        describe=Origins(loader.readers).describe,
    )
    return [guard, TimeLimitHook(cfg.SOLVER.MAX_HOURS)]
