# SPDX-License-Identifier: Apache-2.0
"""A step of a run once more: its batch, its noise, and the weights of a checkpoint before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffnext.data.origins import Origins
from diffnext.distributed import env as processes
from diffnext.engine.build.config import Config
from diffnext.engine.build.plan import make_plan
from diffnext.engine.build.run import make_trainer
from diffnext.engine.checkpoint import Checkpoint, Content, find, find_flaw, find_start, listed
from diffnext.engine.tensors import SavedTensors
from diffnext.engine.trainer import Trainer
from diffnext.utils.logging import logger


@dataclass(frozen=True)
class Replay:
    """A run that stands before the step."""

    trainer: Trainer
    origins: Origins
    behind: int  # steps between the weights and the step; 0 if they are those that it met


def build_replay(
    cfg: Config, run_folder: str | Path, step: int, *, weights: str = "nearest", exact: bool = False
) -> Replay:
    """Put a run back to before a step, in one process however many it had.

    Args:
        cfg: the options of the run; not frozen, and changed to those of one process.
        run_folder: its experiment folder.
        step: as the log counts it, from 1.
        weights: "nearest", a checkpoint, or a folder with a network.
        exact: train from the checkpoint to the step, so that its weights are those that it met.

    Raises:
        ValueError: no such step, or no such weights.
    """
    if not 1 <= step <= cfg.SOLVER.MAX_STEPS:
        raise ValueError(f"step {step} is none of 1 to {cfg.SOLVER.MAX_STEPS} (SOLVER.MAX_STEPS)")
    checkpoint = _checkpoint(cfg, run_folder, step, weights)
    if weights != "nearest" and checkpoint is None:
        cfg.PIPELINE.MODULES = {**cfg.PIPELINE.MODULES, cfg.MODEL.TYPE: _network(cfg, weights)}
        cfg.MODEL.CONFIG, cfg.MODEL.START_FROM = {}, ""
    _make_single(cfg, _global_batch(cfg, run_folder, checkpoint))
    env = processes.init(gpu_id=cfg.GPU_ID)
    plan = make_plan(cfg, world=1, resumed=checkpoint is not None)
    begin = 0 if checkpoint is None else _begin(checkpoint)
    trainer = make_trainer(cfg, plan, env, begin=begin)
    if checkpoint is not None:
        content = Content(module=cfg.MODEL.TYPE, loader=trainer.batches, ema=None)
        saved = SavedTensors(checkpoint.folder / "state")
        content.restore(saved, checkpoint.run(), trainer, resets={"ema"})
    behind = step - 1 - trainer.step
    if exact:
        behind = _catch_up(trainer, step - 1)
    trainer.batches.load_state_dict(trainer.batches.state_dict() | {"step": step - 1})
    trainer.step = step - 1
    return Replay(trainer, Origins(plan.data.readers), behind)


def _checkpoint(cfg: Config, run_folder: str | Path, step: int, weights: str) -> Checkpoint | None:
    """The checkpoint to take the weights from; None for those of a network alone."""
    if weights != "nearest":
        return find(weights, "") if find_flaw(Path(weights)) is None else None
    whole = [c for c in listed(run_folder) if c.step < step and find_flaw(c.folder) is None]
    if whole:
        return whole[0]
    if cfg.TRAIN.RESUME not in ("auto", "none"):  # another run, which this one began from
        begin = find(cfg.TRAIN.RESUME, "")
        return begin if begin is not None and begin.step < step else None
    return None


def _network(cfg: Config, weights: str) -> str:
    for folder in (Path(weights, cfg.MODEL.TYPE), Path(weights)):
        if (folder / "config.json").is_file():
            return str(folder)
    raise ValueError(
        f"--weights {weights} is no complete checkpoint, and holds no {cfg.MODEL.TYPE}/config.json; "
        "wanted is 'nearest', a checkpoint or a folder with a network"
    )


def _global_batch(cfg: Config, run_folder: str | Path, checkpoint: Checkpoint | None) -> int:
    """Samples of a step: what checkpoints say, since the number of nodes is no option."""
    for found in filter(None, [checkpoint, *listed(run_folder)]):
        if find_flaw(found.folder) is None:
            return int(found.run()["loader"]["global_batch"])
    return cfg.TRAIN.BATCH_SIZE * cfg.SOLVER.ACCUM_STEPS * max(cfg.NUM_GPUS, 1)


def _make_single(cfg: Config, global_batch: int) -> None:
    """The options of one process that computes the same micro-batches one after another."""
    cfg.NUM_GPUS = 1
    cfg.PARALLEL.BACKEND = "single"
    cfg.PARALLEL.CONFIG = {}
    cfg.SOLVER.ACCUM_STEPS = global_batch // cfg.TRAIN.BATCH_SIZE
    cfg.EVAL.EVERY = cfg.SAMPLE.EVERY = 0
    cfg.TRAIN.MODEL_EMA = 0.0
    cfg.TRAIN.EXTRA_EMA = []


def _begin(checkpoint: Checkpoint) -> int:
    """Step at which the course of the learning rate began."""
    return find_start(str(checkpoint.folder), "").begin


def _catch_up(trainer: Trainer, step: int) -> int:
    """Train without a trace until `step` steps are done; return how many are missing, none."""
    logger.info(f"training from step {trainer.step} to {step}, in memory")
    while trainer.step < step:
        trainer.train_step()
        trainer.step += 1
    return 0
