# SPDX-License-Identifier: Apache-2.0
"""Messages between the processes beside those of training, for work that goes on in the background."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import torch
import torch.distributed as dist

from diffnext.distributed import env as processes

# storage takes as long as it takes; a process that dies closes its connections, which ends the waiting
_PATIENCE = datetime.timedelta(hours=12)


class SideChannel:
    """A gloo group of its own: its messages never mix with those of a training step.

    Making one is a collective, and so is each method; all processes call them in the same order.
    """

    def __init__(self) -> None:
        several = processes.world_size() > 1
        self.group = dist.new_group(backend="gloo", timeout=_PATIENCE) if several else None

    def total(self, count: int) -> int:
        """The sum of every process's number."""
        if self.group is None:
            return count
        box = torch.tensor(count)
        dist.all_reduce(box, group=self.group)
        return int(box)

    def on_first(self, work: Callable[[], None]) -> None:
        """Do something on the first process alone; if that fails, no other one goes on without it.

        Raises:
            OSError: with the number and the text of the first process's own.
            RuntimeError: another error of the first process; there, that error itself.
        """
        error: Exception | None = None
        if processes.rank() == 0:
            try:
                work()
            except Exception as caught:
                error = caught
        told = self._from_first(None if error is None else _describe(error))
        if error is not None:
            raise error
        if told is not None:
            number, text = told
            raise OSError(number, text) if number else RuntimeError(f"on the first process: {text}")

    def _from_first(self, value: object) -> object:
        if self.group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]


def _describe(error: Exception) -> tuple[int | None, str]:
    """An error as what can be sent."""
    if isinstance(error, OSError):
        return error.errno, f"{error.strerror or error} (on the first process)"
    return None, f"{type(error).__name__}: {error}"
