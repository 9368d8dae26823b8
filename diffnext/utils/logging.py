# SPDX-License-Identifier: Apache-2.0
"""One logger for the package; the first process speaks, the others only warn."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("diffnext")


def setup(*, rank: int = 0, file: str | None = None) -> None:
    """Send the log to the console and, on rank 0, to a file as well. May be called again.

    Args:
        rank: the number of this process; only rank 0 prints below the level of warnings.
        file: where to append a copy.
    """
    close()
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logger.propagate = False
    prefix = f"[rank {rank}] " if rank else ""
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
    logger.addHandler(console)
    if file is not None and rank == 0:
        copy = logging.FileHandler(file)
        copy.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(copy)


def close() -> None:
    """Close the log files and detach from the console."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
