# SPDX-License-Identifier: Apache-2.0
"""Forks of a test that are waited for, but not for ever."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Collection, Sequence

LONG_S = 300.0  # that nothing takes that comes at all, on whatever machine
STACKS_S = 5.0  # for processes that are aborted to write where they are


def wait(children: Sequence[int], *, limit_s: float) -> list[int]:
    """Exit codes of children, minus the signal where that is how one ended.

    Where one is killed, or has not ended after `limit_s` seconds, the others are ended too. Those that
    are late are aborted, so that they write their stacks, if they can.
    """
    codes: dict[int, int] = {}
    abort_at, kill_at = time.monotonic() + limit_s, math.inf
    while len(codes) < len(children):
        left, now = [child for child in children if child not in codes], time.monotonic()
        if now > abort_at:
            _signal(left, signal.SIGABRT)
            abort_at, kill_at = math.inf, now + STACKS_S
        elif kill_at == math.inf and min(codes.values(), default=0) < 0:
            kill_at = now
        if now >= kill_at:
            _signal(left, signal.SIGKILL)
        for child in left:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return [codes[child] for child in children]


def _signal(children: Collection[int], number: int) -> None:
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
