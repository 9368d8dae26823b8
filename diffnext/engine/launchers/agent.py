# SPDX-License-Identifier: Apache-2.0
"""torchrun as a program that leaves signals to who started it: `python -m ...agent OPTIONS SCRIPT`."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffnext.engine.heartbeat import FOLDER
from diffnext.engine.launchers.faults import CODES, say

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig


def run(arguments: Sequence[str]) -> int:
    """Start the processes of this node; return the exit code of the first one that failed."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    # who watches us tells what is wrong; torch would speak of the thread and of each process as well
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    args = parse_args(list(arguments))
    if args.standalone:  # as torchrun itself does
        args.rdzv_backend, args.rdzv_endpoint = "c10d", "localhost:0"
        args.rdzv_id = str(uuid.uuid4())
    if args.master_port is None:
        args.master_port = 29500
    args.log_dir = args.log_dir or os.environ.get(FOLDER)  # its own would stay after each run
    config, program, rest = config_from_args(args)
    try:
        elastic_launch(config, program)(*rest)
    except ChildFailedError as error:
        _note({rank: failure.exitcode for rank, failure in error.failures.items()})
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except (RendezvousError, DistError, OSError) as error:
        say(f"error: {_apart(config, error)}")
        return 1
    return 0


def _apart(config: LaunchConfig, error: Exception) -> str:
    """Of nodes that have not met, or have lost each other."""
    inner = error.__cause__ or error  # which torch's own says to look at
    what = f"{type(inner).__name__}: {str(inner).splitlines()[0]}" if str(inner) else repr(inner)
    return (
        f"the {config.max_nodes} nodes do not reach each other at {config.rdzv_endpoint} ({what}); the "
        "command has to run on each of them, with the same address; --rdzv-conf timeout=SECONDS (with "
        "--master-addr) or join_timeout=SECONDS (with --rdzv-endpoint) is how long they wait"
    )


def _note(codes: dict[int, int]) -> None:
    if os.environ.get(FOLDER):
        Path(os.environ[FOLDER], CODES).write_text(json.dumps(codes))


def main(arguments: Sequence[str]) -> int:
    """Run in a thread: in the main one torch would end the processes at a signal, 30 s after it.

    A signal that a scheduler sends to all processes must not cut a checkpoint off.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # a handler that does nothing; SIG_IGN would be inherited
            signal.signal(getattr(signal, name), lambda number, frame: None)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run(arguments)))
    thread.start()
    thread.join()
    return codes[0] if codes else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
