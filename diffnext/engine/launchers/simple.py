# SPDX-License-Identifier: Apache-2.0
"""One process: this one."""

from __future__ import annotations

from diffnext.engine.launchers import LAUNCHERS
from diffnext.engine.launchers.base import Job


@LAUNCHERS.register("simple")
def launch(job: Job) -> int:
    """Do the work here."""
    return job.main()
