# SPDX-License-Identifier: Apache-2.0
"""How long a command computes: other processes may hold the cores, so clocks tell little."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence


def fastest(command: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[str, float]:
    """What a command prints, and the CPU seconds of the best of three runs; its exit code must be 0."""
    seconds = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        after = os.times()
        user = after.children_user - before.children_user
        seconds.append(user + after.children_system - before.children_system)
    return done.stdout, min(seconds)
