# SPDX-License-Identifier: Apache-2.0
"""Has glibc keep the memory that a process frees, for the next picture or batch of the same size."""

from __future__ import annotations

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 256 << 20  # free memory that is not given back to the system
LARGE_BYTES = 32 << 20  # a block that is; glibc takes no larger value


def keep_freed_memory() -> None:
    """From now on, in this process. Where the C library is another, nothing is done.

    Otherwise the pages of each larger array are mapped, cleared and unmapped again: a third of the
    time in which small pictures were decoded, or encoded on a CPU.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
