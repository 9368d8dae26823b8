# SPDX-License-Identifier: Apache-2.0
"""A thread for work beside the steps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def one_thread(name: str) -> ThreadPoolExecutor:
    """A thread on the GPU of who asks for it.

    Left alone, it would begin on the first one, and take memory there.
    """
    options: dict[str, Any] = {"thread_name_prefix": name}
    if torch.cuda.is_available():
        options |= {
            "initializer": torch.cuda.set_device,
            "initargs": (torch.cuda.current_device(),),
        }
    return ThreadPoolExecutor(1, **options)
