# SPDX-License-Identifier: Apache-2.0
"""From the options of a run to its objects: the one file of the library that is handed the config."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffnext.data.datasets import open_datasets
from diffnext.data.loader import Loader
from diffnext.data.records import RecordReader
from diffnext.distributed.env import Env
from diffnext.engine import check, memory
from diffnext.engine.backends import BACKENDS
from diffnext.engine.backends.base import PRECISIONS, Backend
from diffnext.engine.backends.deepspeed_config import merge_config, read_config, zero_stage
from diffnext.engine.blocks import compile_blocks
from diffnext.engine.checkpoint import CheckpointManager, find
from diffnext.engine.coordinator import Coordinator, describe
from diffnext.engine.ema import EMA, check_decay
from diffnext.engine.hooks.average import EMAHook
from diffnext.engine.hooks.log import LogHook
from diffnext.engine.hooks.snapshot import SnapshotHook
from diffnext.engine.lr_scheduler import Schedule, make_schedule
from diffnext.engine.optim import OptimizerFactory, optimizer_factory
from diffnext.engine.trainer import Trainer
from diffnext.methods import METHODS
from diffnext.methods.base import TrainingMethod
from diffnext.pipelines.builder import PIPELINES, build_pipeline
from diffnext.pipelines.train_base import TrainPipeline
from diffnext.utils.logging import logger
from diffnext.utils.registry import check_options, construct

Config = Any  # diffnext.config.CfgNode, which this layer does not import


@dataclass(frozen=True)
class Plan:
    """What a run will be, after all checks that need no weights."""

    readers: list[RecordReader]
    shares: list[float]  # how often each dataset passes in an epoch
    backend: str
    options: dict[str, Any]  # of the backend
    modules: dict[str, str]  # components that come from elsewhere, or are left out
    settings: dict[str, Any]  # of a network with random weights; empty to load them
    skeleton: nn.Module  # the network on the meta device, with frozen parts marked
    optimizer: OptimizerFactory
    schedule: Schedule
    need: memory.Need


def make_plan(cfg: Config, *, world: int, deepspeed: str = "") -> Plan:
    """Resolve the options and check data, configuration and weights against each other.

    Args:
        world: number of processes.
        deepspeed: path of a DeepSpeed json, or "".

    Raises:
        ValueError, FileNotFoundError: what does not fit; nothing was loaded or written.
    """
    _check_options(cfg)
    backend, options = _backend(cfg, world=world, deepspeed=deepspeed)
    optimizer = optimizer_factory(
        cfg.SOLVER.OPTIMIZER,
        lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        beta2=cfg.SOLVER.ADAM_BETA2,
    )
    check.check_optimizer(cfg.SOLVER.OPTIMIZER, optimizer)
    family = PIPELINES.get(cfg.PIPELINE.TYPE)
    readers, shares = _datasets(cfg)
    folder = _network_folder(cfg, family)
    config = check.read_config(folder) | dict(cfg.MODEL.CONFIG)
    for reader in readers:
        check.check_data(reader, reads=family.reads, expected=family.expects(config))
    settings = dict(cfg.MODEL.CONFIG)
    if not settings and not check.has_weights(folder):
        settings = {key: value for key, value in config.items() if not key.startswith("_")}
    modules = _modules(cfg, embedded=all(map(check.embedded_text, readers)))
    skeleton = _skeleton(cfg, modules, settings or config)
    if not settings:
        check.check_weights(folder, skeleton.state_dict())
    need = memory.estimate(
        skeleton,
        optimizer,
        backend=backend,
        world=world,
        precision=cfg.MODEL.PRECISION,
        stage=zero_stage(options.get("config", {})),
        replicate=options.get("replicate", 1),
        average=cfg.TRAIN.MODEL_EMA > 0,
    )
    return Plan(
        readers,
        shares,
        backend,
        options,
        modules,
        settings,
        skeleton,
        optimizer,
        _schedule(cfg),
        need,
    )


def describe_plan(cfg: Config, plan: Plan, *, world: int) -> list[str]:
    """A plan in words, one line a subject."""
    lines = []
    for reader, share in zip(plan.readers, plan.shares, strict=True):
        shapes = ", ".join(str(list(shape)) for shape in reader.shapes()[0][:4])
        lines.append(
            f"data       {reader.path}: {len(reader)} records of {shapes}, weight {share:g}"
        )
    every = sum(p.numel() for p in plan.skeleton.parameters())
    learning = sum(p.numel() for p in plan.skeleton.parameters() if p.requires_grad)
    source = "random weights" if plan.settings else f"weights of {cfg.MODEL.WEIGHTS}"
    name = type(plan.skeleton).__name__
    lines.append(f"network    {name}, {every:,} parameters, {learning:,} learn; {source}")
    batch = cfg.TRAIN.BATCH_SIZE * cfg.SOLVER.ACCUM_STEPS * world
    lines.append(
        f"step       {batch} samples: {cfg.TRAIN.BATCH_SIZE} a micro-batch, "
        f"{cfg.SOLVER.ACCUM_STEPS} micro-batches, {world} processes; {cfg.MODEL.PRECISION}"
    )
    lines.append(
        f"run        {cfg.PIPELINE.TYPE}, {cfg.METHOD.TYPE}, backend {plan.backend}; "
        f"{cfg.SOLVER.MAX_STEPS} steps, seed {cfg.RNG_SEED}"
    )
    lines.append(f"memory     {plan.need} a process, without activations")
    on_host = cfg.TRAIN.DEVICE_EMA == "cpu"
    short = memory.shortage(
        plan.need, average_on_host=on_host, processes=min(world, max(cfg.NUM_GPUS, 1))
    )
    if short:
        lines.append(f"WARNING    {short}")
    saved = every + 2 * learning + (every + learning) * (cfg.TRAIN.MODEL_EMA > 0) + every
    first = min(cfg.SOLVER.SNAPSHOT_EVERY, cfg.SOLVER.MAX_STEPS)
    lines.append(
        f"checkpoint at step {first} for the first time, about {4 * saved / 2**30:.2f} GiB"
    )
    return lines


def finished_at(cfg: Config, coordinator: Coordinator) -> Path | None:
    """The checkpoint that is the end of this run, if it was reached already."""
    found = find(cfg.TRAIN.RESUME, coordinator.folder)
    return found.folder if found is not None and found.step >= cfg.SOLVER.MAX_STEPS else None


def build_trainer(
    cfg: Config, plan: Plan, coordinator: Coordinator, *, tensorboard: bool = False
) -> Trainer:
    """Make everything that a run consists of, put back to where it was if it is resumed.

    Args:
        cfg: frozen options.
        plan: made of them.
        coordinator: of the experiment folder.
        tensorboard: write curves for TensorBoard as well.
    """
    env = coordinator.env
    for line in describe_plan(cfg, plan, world=env.world):
        logger.info(line)
    pipe = _pipeline(cfg, plan).to(env.device)
    backend = construct(
        BACKENDS.get(plan.backend),
        env,
        options={"precision": cfg.MODEL.PRECISION, **plan.options},
        key="PARALLEL.CONFIG",
    )
    method = _method(cfg, pipe, backend, plan.optimizer)
    loader = _loader(cfg, plan, env)
    trainer = Trainer(
        pipe=pipe,
        method=method,
        backend=backend,
        batches=loader,
        schedules={role.name: plan.schedule for role in method.roles if role.learns},
        max_steps=cfg.SOLVER.MAX_STEPS,
        seed=cfg.RNG_SEED,
        accum_steps=cfg.SOLVER.ACCUM_STEPS,
        max_norm=cfg.SOLVER.CLIP_GRAD,
    )
    _attach(cfg, coordinator, trainer, loader, tensorboard=tensorboard)
    return trainer


def _attach(
    cfg: Config, coordinator: Coordinator, trainer: Trainer, loader: Loader, *, tensorboard: bool
) -> None:
    """Resume the run if there is something to resume, and give it its hooks."""
    env, student = coordinator.env, trainer.method.roles[0].name
    ema = _ema(cfg, trainer.backend, student, env)
    manager = CheckpointManager(
        coordinator.folder,
        prefix=cfg.SOLVER.SNAPSHOT_PREFIX or cfg.MODEL.TYPE,
        module=cfg.MODEL.TYPE,
        loader=loader,
        ema=ema,
        about={"config": str(cfg), **describe()},
        keep=cfg.SOLVER.SNAPSHOT_KEEP,
    )
    found = find(cfg.TRAIN.RESUME, coordinator.folder)
    if found is not None:
        manager.load(found, trainer)
    batch = cfg.TRAIN.BATCH_SIZE * cfg.SOLVER.ACCUM_STEPS * env.world
    writers = coordinator.writers(step=trainer.step, tensorboard=tensorboard)
    log = LogHook(writers, display=cfg.SOLVER.DISPLAY, samples_per_step=batch)

    def save(trainer: Trainer) -> None:
        log.flush()  # a resumed run needs the rows before it
        manager.save(trainer)

    trainer.hooks.append(log)
    if ema is not None:
        trainer.hooks.append(EMAHook(ema, role=student, every=cfg.SOLVER.EMA_EVERY))
    trainer.hooks.append(SnapshotHook(save, every=cfg.SOLVER.SNAPSHOT_EVERY))


def _check_options(cfg: Config) -> None:
    """What can be said of single options."""
    check.check_numbers({key: attrgetter(key)(cfg) for key in check.RANGES})
    check.check_choice("MODEL.PRECISION", cfg.MODEL.PRECISION, PRECISIONS)
    check.check_choice("TRAIN.DEVICE_EMA", cfg.TRAIN.DEVICE_EMA, ("cpu", "cuda", "gpu"))
    if cfg.TRAIN.MODEL_EMA != 0:
        check_decay(cfg.TRAIN.MODEL_EMA)
    check_options(METHODS.get(cfg.METHOD.TYPE), cfg.METHOD.CONFIG, key="METHOD.CONFIG")
    check.check_set_once(cfg.PARALLEL.CONFIG, "PARALLEL.CONFIG")
    check.check_set_once(cfg.TRAIN.LOADER_CONFIG, "TRAIN.LOADER_CONFIG")
    loading = {"batch_size": cfg.TRAIN.BATCH_SIZE, **cfg.TRAIN.LOADER_CONFIG}
    check_options(Loader, loading, key="TRAIN.LOADER_CONFIG")


def _backend(cfg: Config, *, world: int, deepspeed: str) -> tuple[str, dict[str, Any]]:
    """Name and options of the backend."""
    name = cfg.PARALLEL.BACKEND
    if name == "auto":
        name = "deepspeed" if deepspeed else ("ddp" if world > 1 else "single")
    check.check_backend(name, world=world, deepspeed=deepspeed)
    options = dict(cfg.PARALLEL.CONFIG)
    if deepspeed:
        options["config"] = merge_config(
            read_config(deepspeed),
            batch_size=cfg.TRAIN.BATCH_SIZE,
            accum_steps=cfg.SOLVER.ACCUM_STEPS,
            world=world,
            precision=cfg.MODEL.PRECISION,
            max_norm=cfg.SOLVER.CLIP_GRAD,
        )
    check_options(BACKENDS.get(name), options, key="PARALLEL.CONFIG")
    stage = zero_stage(options.get("config", {}))
    check.check_split(name, options, world=world, stage=stage, optimizer=cfg.SOLVER.OPTIMIZER)
    return name, options


def _datasets(cfg: Config) -> tuple[list[RecordReader], list[float]]:
    if not cfg.TRAIN.DATASET:
        raise ValueError("TRAIN.DATASET is empty; name a folder that tools/build_cache.py made")
    if cfg.TRAIN.LOADER != "vae_train":
        raise ValueError(f"TRAIN.LOADER is {cfg.TRAIN.LOADER!r}; there is 'vae_train'")
    return open_datasets(cfg.TRAIN.DATASET, cfg.TRAIN.DATASET2)


def _network_folder(cfg: Config, family: type[TrainPipeline]) -> Path:
    if cfg.MODEL.TYPE != family.trained:
        raise ValueError(
            f"MODEL.TYPE is {cfg.MODEL.TYPE!r}; {family.__name__} trains {family.trained!r}"
        )
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "MODEL.WEIGHTS is empty; name the folder of a pipeline, with model_index.json"
        )
    return Path(cfg.PIPELINE.MODULES.get(family.trained, Path(cfg.MODEL.WEIGHTS, family.trained)))


def _modules(cfg: Config, *, embedded: bool) -> dict[str, str]:
    """Components to take from elsewhere; a cache of embedded prompts needs no text encoder."""
    modules = dict(cfg.PIPELINE.MODULES)
    return (_without_text(cfg.MODEL.WEIGHTS) | modules) if embedded else modules


def _without_text(path: str) -> dict[str, str]:
    names = ("tokenizer", "text_encoder")
    return {name: "" for name in names if Path(path, name).is_dir()}


def _skeleton(cfg: Config, modules: Mapping[str, str], config: Mapping[str, Any]) -> nn.Module:
    """The network without memory, frozen as it will be."""
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):
        pipe = build_pipeline(
            cfg.MODEL.WEIGHTS,
            cfg.PIPELINE.TYPE,
            "float32",
            modules={**modules, **_without_text(cfg.MODEL.WEIGHTS)},
            model_config=settings,
        )
        return pipe.configure(checkpointing=cfg.TRAIN.CHECKPOINTING)


def _pipeline(cfg: Config, plan: Plan) -> TrainPipeline:
    torch.manual_seed(cfg.RNG_SEED)  # of weights that are not loaded; the same on all processes
    return build_pipeline(
        cfg.MODEL.WEIGHTS,
        cfg.PIPELINE.TYPE,
        cfg.MODEL.PRECISION,
        modules=plan.modules,
        model_config=plan.settings,
        dropout=cfg.TRAIN.TEXT_DROPOUT,
        loss_repeat=cfg.TRAIN.LOSS_REPEAT,
    )


def _method(
    cfg: Config, pipe: TrainPipeline, backend: Backend, optimizer: OptimizerFactory
) -> TrainingMethod:
    """The method, its networks in the hands of the backend: the first role's own, copies for others."""
    cls = METHODS.get(cfg.METHOD.TYPE)
    net = pipe.configure(checkpointing=cfg.TRAIN.CHECKPOINTING)
    nets = {role: net if i == 0 else copy.deepcopy(net) for i, role in enumerate(cls.roles)}
    wrapped = {}
    for role, net in nets.items():
        if cfg.TRAIN.COMPILE:
            compile_blocks(net)
        if not role.learns:
            net.requires_grad_(False)
        wrapped[role.name] = backend.add(role.name, net, optimizer if role.learns else None)
    return construct(cls, pipe, wrapped, options=cfg.METHOD.CONFIG, key="METHOD.CONFIG")


def _loader(cfg: Config, plan: Plan, env: Env) -> Loader:
    options = {
        "batch_size": cfg.TRAIN.BATCH_SIZE,
        "accum_steps": cfg.SOLVER.ACCUM_STEPS,
        "seed": cfg.RNG_SEED,
        "rank": env.rank,
        "world": env.world,
        "num_threads": cfg.TRAIN.NUM_THREADS,
        "weights": plan.shares,
        "pin_memory": env.device.type == "cuda",
    }
    options |= dict(cfg.TRAIN.LOADER_CONFIG)
    return construct(Loader, plan.readers, options=options, key="TRAIN.LOADER_CONFIG")


def _schedule(cfg: Config) -> Schedule:
    return make_schedule(
        cfg.SOLVER.LR_POLICY,
        base_lr=cfg.SOLVER.BASE_LR,
        max_steps=cfg.SOLVER.MAX_STEPS,
        min_lr=cfg.SOLVER.MIN_LR,
        decay_steps=cfg.SOLVER.DECAY_STEPS,
        decay_gamma=cfg.SOLVER.DECAY_GAMMA,
        warm_up_steps=cfg.SOLVER.WARM_UP_STEPS,
        warm_up_factor=cfg.SOLVER.WARM_UP_FACTOR,
    )


def _ema(cfg: Config, backend: Backend, role: str, env: Env) -> EMA | None:
    if cfg.TRAIN.MODEL_EMA == 0:
        return None
    device = torch.device("cpu") if cfg.TRAIN.DEVICE_EMA == "cpu" else env.device
    weights = backend.weights(role, learning=True)
    return EMA(weights, decay=cfg.TRAIN.MODEL_EMA, device=device)
