# SPDX-License-Identifier: Apache-2.0
"""One run at a time writes to an experiment folder."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from diffnext.data.records.lock import FolderLock, InUse
from diffnext.distributed import env as processes
from diffnext.distributed.env import Env


def only_writer(folder: Path, env: Env) -> AbstractContextManager[object]:
    """Lock the folder of a run until the end of the context, or of the process. Collective.

    Two runs would remove each other's drafts of checkpoints, and rows of the log.

    Raises:
        ValueError: another run writes to it, which is named, or nobody can; raised on all processes.
    """
    held: AbstractContextManager[object] = nullcontext()
    refusal = None
    if env.is_main:
        try:
            held = FolderLock(folder)
        except InUse as error:
            refusal = error
        except OSError as error:
            refusal = ValueError(f"{folder} cannot be written to ({error}); name another --exp-dir")
    processes.agree_with_first(refusal)
    return held
