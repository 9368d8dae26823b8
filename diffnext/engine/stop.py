# SPDX-License-Identifier: Apache-2.0
"""Ends a run after the same step on all processes, when one of them is asked to."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from diffnext.distributed.env import Env
from diffnext.utils.logging import logger


class StopVote:
    """A request to end, agreed on by all processes.

    Each step one integer a process goes round, on the CPU, while the step computes; the answer is
    read at the step's end. So nobody waits for it, the accelerator least of all, and with several
    processes a request that comes in the middle of a step is heard at the end of the next one.

    Args:
        env: this process.
    """

    def __init__(self, env: Env) -> None:
        self.env = env
        self.request = ""  # why this process wants an end; "" if it does not
        self.agreed = ""  # why the run ends after this step; "" if it goes on
        self._asker = torch.zeros(1, dtype=torch.int32)  # 1 + the number of a process that wants it
        self._message: dist.Work | None = None

    def ask(self) -> None:
        """At the beginning of a step: begin to exchange who wants an end. Collective."""
        if self.env.world == 1:
            return
        self._asker.fill_(self.env.rank + 1 if self.request else 0)
        self._message = dist.all_reduce(self._asker, dist.ReduceOp.MAX, async_op=True)

    def hear(self) -> None:
        """At the end of the step: learn the answer, the same on all processes."""
        if self._message is None:
            self.agreed = self.request
        else:
            self._message.wait()
            self.agreed = self._reason(self._asker)

    def _reason(self, asker: Tensor) -> str:
        rank = int(asker) - 1
        if rank < 0:
            return ""
        if rank == self.env.rank and rank > 0:  # the first process tells it anyway
            logger.warning(f"the run ends here: {self.request}")
        return self.request or f"process {rank} was asked to"
