# SPDX-License-Identifier: Apache-2.0
"""A plan in words."""

from __future__ import annotations

from dataclasses import replace

from diffnext.engine import memory
from diffnext.engine.build.config import Config
from diffnext.engine.build.folders import component_folder
from diffnext.engine.build.idle import idle_options
from diffnext.engine.build.options import decays_of
from diffnext.engine.build.plan import Plan
from diffnext.engine.build.samples import bytes_while_drawing, prompts_of
from diffnext.engine.checkpoint import Start


def describe_plan(cfg: Config, plan: Plan, *, world: int, start: Start | None = None) -> list[str]:
    """A plan in words, one line a subject.

    Args:
        start: where the run goes on from; None for step 0.
    """
    batch = cfg.TRAIN.BATCH_SIZE * cfg.SOLVER.ACCUM_STEPS * world
    return [
        *_describe_data(plan),
        *_describe_held_out(cfg, plan),
        _describe_network(cfg, plan, start),
        f"step       {batch} samples: {cfg.TRAIN.BATCH_SIZE} a micro-batch, "
        f"{cfg.SOLVER.ACCUM_STEPS} micro-batches, {world} processes; {cfg.MODEL.PRECISION}",
        f"run        {cfg.PIPELINE.TYPE}, {cfg.METHOD.TYPE}, backend {plan.backend}; "
        f"{cfg.SOLVER.MAX_STEPS} steps, seed {cfg.RNG_SEED}",
        *_describe_memory(cfg, plan, world=world),
        _describe_checkpoints(cfg, plan, start),
        *idle_options(cfg),
    ]


def _describe_data(plan: Plan) -> list[str]:
    """What is trained on, and what is odd about it."""
    lines = []
    for reader, share in zip(plan.data.readers, plan.data.shares, strict=True):
        shapes = ", ".join(str(list(shape)) for shape in reader.shapes()[0][:4])
        lines.append(
            f"data       {reader.path}: {len(reader)} records of {shapes}, weight {share:g}"
        )
    return lines + plan.data.notes


def _describe_network(cfg: Config, plan: Plan, start: Start | None) -> str:
    every, learning = _count_parameters(plan)
    name, source = type(plan.skeleton).__name__, _source(cfg, plan, start)
    return f"network    {name}, {every:,} parameters, {learning:,} learn; {source}"


def _describe_memory(cfg: Config, plan: Plan, *, world: int) -> list[str]:
    """What a process needs while it trains and while it samples, and a warning where that is too much."""
    lines = [f"memory     {plan.need} a process"]
    here = min(world, max(cfg.NUM_GPUS, 1))  # processes on this machine
    short = memory.shortage(plan.need, processes=here, sharding=plan.sharding)
    if short:
        lines.append(f"WARNING    {short}")
    elif cfg.SAMPLE.EVERY:
        lines += _describe_samples(cfg, plan, processes=here)
    return lines


def _describe_checkpoints(cfg: Config, plan: Plan, start: Start | None) -> str:
    """When the first one is written, and the size of weights, optimizer, averages and export."""
    every, learning = _count_parameters(plan)
    averaged = len(decays_of(cfg)) * (every + learning)
    saved = every + 2 * learning + averaged + every
    step, size = _first_save(cfg, start), 4 * saved / 2**30
    return f"checkpoint at step {step} for the first time, about {size:.2f} GiB"


def _count_parameters(plan: Plan) -> tuple[int, int]:
    """Weights of the network, and those that learn."""
    params = list(plan.skeleton.parameters())
    return sum(p.numel() for p in params), sum(p.numel() for p in params if p.requires_grad)


def _describe_samples(cfg: Config, plan: Plan, *, processes: int) -> list[str]:
    """The memory that sampling takes between two steps, when there are no activations."""
    size = bytes_while_drawing(cfg, plan.skeleton)
    line = (
        f"samples    of {len(prompts_of(cfg))} prompts every {cfg.SAMPLE.EVERY} steps, with "
        f"{memory.mib(size)} of weights a process beside those that learn"
    )
    short = memory.shortage(replace(plan.need, activations=size), processes=processes)
    if not short:
        return [line]
    remedy = "draw from snapshots by scripts/generate.py instead, SAMPLE.EVERY 0"
    return [line, f"WARNING    samples may not fit, {short}; {remedy}"]


def _first_save(cfg: Config, start: Start | None) -> int:
    """The step of the first checkpoint that the run will write."""
    done, period = 0 if start is None else start.checkpoint.step, cfg.SOLVER.SNAPSHOT_EVERY
    return min((done // period + 1) * period, cfg.SOLVER.MAX_STEPS)


def _source(cfg: Config, plan: Plan, start: Start | None) -> str:
    """Where the weights of the network come from."""
    if start is not None:
        return f"weights of {start.checkpoint.folder}"
    if first := plan.first_weights:
        new = len(plan.skeleton.state_dict()) - len(first.names)
        return f"{len(first.names)} tensors of {first.folder}, {new} random"
    if plan.settings:
        return "random weights"
    return f"weights of {component_folder(cfg, cfg.MODEL.TYPE)}"


def _describe_held_out(cfg: Config, plan: Plan) -> list[str]:
    """What is evaluated on, and what is odd about it."""
    if plan.held_out is None:
        return []
    places = [str(reader.path) for reader in plan.held_out.readers]
    count = min(cfg.EVAL.SAMPLES, sum(map(len, plan.held_out.readers)))
    where = ", ".join(places)
    lines = [f"held out   {count} records of {where}, evaluated every {cfg.EVAL.EVERY} steps"]
    trained = {str(reader.path) for reader in plan.data.readers}
    lines += [
        f"WARNING    {place} is trained on too (TRAIN.DATASET), so its loss tells of no other data"
        for place in places
        if place in trained
    ]
    return lines + [note for note in plan.held_out.notes if note.startswith("WARNING")]
