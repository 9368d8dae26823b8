# SPDX-License-Identifier: Apache-2.0
"""The objects of a run, each made of its options."""

from __future__ import annotations

import copy

import torch

from diffnext.distributed import env as processes
from diffnext.distributed.env import Env
from diffnext.engine.backends import BACKENDS
from diffnext.engine.backends.base import Backend
from diffnext.engine.blocks import compile_blocks
from diffnext.engine.build.config import Config
from diffnext.engine.build.network import configure, recompute
from diffnext.engine.build.options import decays_of
from diffnext.engine.build.plan import Plan
from diffnext.engine.ema import EMA
from diffnext.engine.optim import OptimizerFactory
from diffnext.methods import METHODS
from diffnext.methods.base import TrainingMethod
from diffnext.pipelines.builder import build_pipeline
from diffnext.pipelines.train_base import TrainPipeline
from diffnext.utils.registry import construct


def make_pipeline(cfg: Config, plan: Plan) -> TrainPipeline:
    """The family at work, with its weights."""
    torch.manual_seed(cfg.RNG_SEED)  # of weights that are not loaded; the same on all processes
    pipe = build_pipeline(
        cfg.MODEL.WEIGHTS,
        cfg.PIPELINE.TYPE,
        cfg.MODEL.PRECISION,
        modules=plan.modules,
        model_config=plan.settings,
        dropout=cfg.TRAIN.TEXT_DROPOUT,
        loss_repeat=cfg.TRAIN.LOSS_REPEAT,
    )
    first = processes.broadcast(plan.first_weights)  # since then, a run may have saved newer ones
    if first:
        first.load(pipe.model)
    return pipe


def make_backend(cfg: Config, plan: Plan, env: Env) -> Backend:
    """What holds and steps the networks."""
    return construct(
        BACKENDS.get(plan.backend),
        env,
        options={"precision": cfg.MODEL.PRECISION, **plan.options},
        key="PARALLEL.CONFIG",
    )


def make_method(
    cfg: Config, pipe: TrainPipeline, backend: Backend, optimizer: OptimizerFactory
) -> TrainingMethod:
    """The method, its networks in the hands of the backend: the first role's own, copies for others."""
    cls = METHODS.get(cfg.METHOD.TYPE)
    net = configure(cfg, pipe)
    nets = {role: net if i == 0 else copy.deepcopy(net) for i, role in enumerate(cls.roles)}
    wrapped = {}
    for role, net in nets.items():
        recompute(cfg, net)
        if cfg.TRAIN.COMPILE:
            compile_blocks(net)
        if not role.learns:
            net.requires_grad_(False)
        wrapped[role.name] = backend.add(role.name, net, optimizer if role.learns else None)
    return construct(cls, pipe, wrapped, options=cfg.METHOD.CONFIG, key="METHOD.CONFIG")


def make_ema(cfg: Config, backend: Backend, role: str, env: Env) -> EMA | None:
    """The running averages of a role, if any is asked for."""
    if not decays_of(cfg):
        return None
    device = torch.device("cpu") if cfg.TRAIN.DEVICE_EMA == "cpu" else env.device
    weights = backend.weights(role, learning=True)
    return EMA(weights, decays=decays_of(cfg), device=device)
