# SPDX-License-Identifier: Apache-2.0
"""Several processes by torchrun's own machinery, on one node or several."""

from __future__ import annotations

import uuid

from diffnext.engine.launchers import LAUNCHERS
from diffnext.engine.launchers.base import Job


@LAUNCHERS.register("torch")
def launch(job: Job) -> int:
    """Start `num_processes` on this node; return the exit code of the first one that failed.

    Without rendezvous options the run is of one node, on a free port. With them (--nnodes,
    --node-rank, --master-addr, --rdzv-endpoint, ...) the same command is started on each node.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    where = list(job.rendezvous) or ["--standalone"]
    count = f"--nproc-per-node={job.num_processes}"
    args = parse_args([*where, count, *job.command])
    if args.standalone:  # as torchrun itself does
        args.rdzv_backend, args.rdzv_endpoint = "c10d", "localhost:0"
        args.rdzv_id = str(uuid.uuid4())
    if args.master_port is None:
        args.master_port = 29500
    config, program, arguments = config_from_args(args)
    try:
        elastic_launch(config, program)(*arguments)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        print(error.format_msg(), flush=True)
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException as error:
        return 128 + error.sigval
    return 0
