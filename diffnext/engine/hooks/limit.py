# SPDX-License-Identifier: Apache-2.0
"""Ends a run before its time is up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from diffnext.engine.hooks.base import Hook

if TYPE_CHECKING:
    from diffnext.engine.trainer import Trainer


class TimeLimitHook(Hook):
    """Asks for an end once this process has run for some time; the step that begins then is the last.

    Args:
        hours: since the process began, loading included; 0 is no limit.
    """

    def __init__(self, hours: float) -> None:
        self.hours = hours

    def before_step(self, trainer: Trainer) -> None:
        elapsed = (time.monotonic() - trainer.backend.env.began) / 3600
        if 0 < self.hours <= elapsed:
            trainer.request_stop(f"{elapsed:.2f} h have passed of SOLVER.MAX_HOURS {self.hours:g}")
