# SPDX-License-Identifier: Apache-2.0
"""Where a run begins, agreed upon by its processes, and whether data and network are still the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffnext.data.datasets import identity_of
from diffnext.data.record_digest import digest_of
from diffnext.distributed import env as processes
from diffnext.distributed.env import Env
from diffnext.engine import checkpoint
from diffnext.engine.build.config import Config
from diffnext.engine.build.data import make_loader
from diffnext.engine.checkpoint import Start
from diffnext.engine.tensors import SavedTensors

if TYPE_CHECKING:
    from diffnext.engine.build.plan import Plan


def find_start(cfg: Config, folder: str | Path) -> Start | None:
    """What the run goes on from, as the first process sees it; None if it begins at step 0. Collective.

    Args:
        folder: the experiment folder; "" for a run that has none yet.

    Raises:
        ValueError: there is no such checkpoint, or the options do not go with it.
    """
    found, error = None, None
    if processes.rank() == 0:
        try:
            found = checkpoint.find_start(
                cfg.TRAIN.RESUME, folder, resets=cfg.TRAIN.RESET, config=str(cfg)
            )
        except ValueError as caught:
            error = caught
    processes.agree_with_first(error)
    return processes.broadcast(found)


def check_start(cfg: Config, plan: Plan, start: Start, env: Env) -> None:
    """Compare network, averages and data with those of the checkpoint, before anything is loaded.

    Raises:
        ValueError: what differs, with both values and the remedy.
    """
    checkpoint.check_network(start, cfg.MODEL.TYPE, plan.skeleton.config)
    if "ema" not in start.resets:
        saved = SavedTensors(start.checkpoint.folder / "state")
        checkpoint.check_averages(saved, plan.averages, module=cfg.MODEL.TYPE)
    loader = make_loader(cfg, plan.data, env)
    checkpoint.check_data(start, loader.state_dict(), data_identity(plan), data_records(plan))


def data_identity(plan: Plan) -> list[Any]:
    """By what each dataset was made, as far as it says; kept in checkpoints."""
    return [identity_of(reader, "moments") for reader in plan.data.readers]


def data_records(plan: Plan) -> list[dict[str, Any]]:
    """Which records each dataset holds, as far as that can be told; kept in checkpoints."""
    return [digest_of(reader) for reader in plan.data.readers]
