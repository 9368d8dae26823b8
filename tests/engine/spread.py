# SPDX-License-Identifier: Apache-2.0
"""Toy runs on any backend; as a script, those of a test with several processes: WORLD FOLDER CASE...

Each case leaves its exit codes and what it has said beside its runs, whatever becomes of the others.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffnext.distributed import env as processes
from diffnext.engine.activations import Live
from diffnext.engine.backends import BACKENDS
from diffnext.engine.backends.deepspeed_config import merge_config
from diffnext.engine.backends.zero import load_deepspeed
from diffnext.engine.gather import whole_network
from diffnext.engine.hooks.moved import MovedHook
from diffnext.engine.memory import estimate
from diffnext.engine.optim import optimizer_factory
from diffnext.engine.sharding import sharding_of
from diffnext.engine.trainer import Trainer
from tests import children
from tests.engine.duel import Duel
from tests.engine.runs import ALONE, Interrupted, toy_run
from tests.engine.toy import WIDTH, ToyNet
from tests.ports import free_port

CASES = {
    "single": ("single", {}),
    "ddp": ("ddp", {}),
    "fsdp": ("fsdp", {}),
    "hybrid": ("fsdp", {"replicate": 2, "reshard": False}),
    "fsdp_host": ("fsdp", {"offload": True}),
    "zero0": ("deepspeed", {"stage": 0}),
    "zero1": ("deepspeed", {"stage": 1}),
    "zero2": ("deepspeed", {"stage": 2}),
    "zero3": ("deepspeed", {"stage": 3}),
    "zero2_host": ("deepspeed", {"stage": 2, "offload_optimizer": {"device": "cpu"}}),
    "zero3_host": (
        "deepspeed",
        {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
    ),
}
GLOBAL_BATCH, ACCUM, MAX_NORM = 8, 2, 1.0
CODES, LOG = "codes.json", "log.txt"  # of a case
CASE_S = 120.0  # which takes seconds
STEPS, CUT = 4, 2
WEIGHED = (
    "ddp",
    "zero0",
    "zero1",
    "zero2",
    "zero3",
)  # fsdp resizes storages, which nothing tells of
SMALL_BUCKETS = {  # as small to the network of `weigh` as DeepSpeed's are to one of a billion weights
    "reduce_bucket_size": 30_000,
    "stage3_prefetch_bucket_size": 10_000,
    "stage3_max_live_parameters": 20_000,
    "stage3_max_reuse_distance": 20_000,
    "stage3_param_persistence_threshold": 0,
}
EARLY = ("zero2", "zero2_host", "zero3", "zero3_host")  # reduce gradients in each micro-batch


def options_of(
    case: str, env: processes.Env, *, batch_size: int, accum: int, precision: str
) -> tuple[str, dict[str, object]]:
    """Name and options of the backend of a case."""
    backend, options = CASES[case]
    if backend == "deepspeed":
        config = merge_config(
            {"zero_optimization": options},
            batch_size=batch_size,
            accum_steps=accum,
            world=env.world,
            precision=precision,
            max_norm=MAX_NORM,
        )
        options = {"config": config}
    return backend, options


def run(case: str, folder: Path, env: processes.Env = ALONE, **settings) -> Trainer:
    """Train a toy run of STEPS steps in `folder`; go on from what is there."""
    precision = settings.pop("precision", "float32")
    batch_size = GLOBAL_BATCH // ACCUM // env.world
    backend, options = options_of(
        case, env, batch_size=batch_size, accum=ACCUM, precision=precision
    )
    if env.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    processes.barrier()
    trainer = toy_run(
        folder,
        env=env,
        backend=backend,
        options=options,
        precision=precision,
        batch_size=batch_size,
        accum=ACCUM,
        max_norm=MAX_NORM,
        max_steps=STEPS,
        snapshot_every=CUT,
        **settings,
    )
    with contextlib.suppress(Interrupted):
        trainer.train()
    return trainer


@torch.no_grad()
def look(trainer: Trainer) -> list[list[list[float]]]:
    """What the network makes of ones: with its own weights, with the average, with its own again."""
    net, ema = trainer.backend.learners["student"].wrapped, trainer.hooks[1].ema
    seen = [net(torch.ones(1, WIDTH)).tolist()]
    with ema.applied(trainer.backend, "student"):
        seen.append(net(torch.ones(1, WIDTH)).tolist())
    seen.append(net(torch.ones(1, WIDTH)).tolist())
    assert trainer.backend.optimizer_state("student")  # which is that of the parts
    return seen


def gather_average(trainer: Trainer, folder: Path) -> None:
    """Write the whole network with averaged weights, which the last process is to have."""
    env = trainer.backend.env
    wanted = env.rank == env.world - 1
    whole = whole_network(trainer.backend, "student", trainer.hooks[1].ema, wanted=wanted)
    assert bool(whole) == wanted
    if whole:
        save_file(whole, folder / "gathered.safetensors")


def count_messages(case: str, folder: Path, env: processes.Env) -> None:
    """Write how many reductions each of three micro-batches of the second step has sent."""
    shape = {"batch_size": 1, "accum": 3, "precision": "float32"}
    backend, options = options_of(case, env, **shape)
    trainer = toy_run(folder, env=env, backend=backend, options=options, max_norm=MAX_NORM, **shape)
    trainer.train_step()
    counts, micro = [], trainer.backend.micro

    @contextlib.contextmanager
    def counted(role: str, *, last: bool) -> Iterator[None]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            with micro(role, last=last):
                yield
        sent = [e for e in seen.events() if e.name.startswith("c10d::") and "reduce" in e.name]
        counts.append(len(sent))

    trainer.backend.micro = counted
    trainer.train_step()
    (folder / f"messages{env.rank}.json").write_text(json.dumps(counts))


class Held(Live):
    """Of tensors that have memory: DeepSpeed keeps shapes as tensors on the device meta."""

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage.device.type != "meta":
            super()._count(storage)


def weigh(case: str, folder: Path, env: processes.Env) -> None:
    """Write the most bytes of tensors that a step holds, and the estimate of them, few activations apart."""
    backend, options = options_of(case, env, batch_size=4, accum=1, precision="bfloat16")
    options.get("config", {}).get("zero_optimization", {}).update(SMALL_BUCKETS)
    make = optimizer_factory("adamw", lr=1e-2, weight_decay=0.02, beta2=0.95)
    live = Held()
    with live:
        net = ToyNet(depth=8, width=96)
        spread = BACKENDS.get(backend)(env, precision="bfloat16", **options)
        wrapped = spread.add("student", net, make)
        for _ in range(3):
            live.peak_bytes = 0  # from the third step on, all that lasts is there
            with spread.micro("student", last=True):
                with spread.autocast():
                    loss = wrapped(torch.ones(4, 96)).float().square().mean()
                spread.backward("student", loss)
            spread.step("student", lr=1e-2, max_norm=MAX_NORM)
    with torch.device("meta"):
        net = ToyNet(depth=8, width=96)
    net.scale.requires_grad_(False)
    shape = sharding_of(backend, options, world=env.world, precision="bfloat16")
    casts = 2 * sum(p.numel() for p in net.parameters()) if shape.casts_weights else 0
    need = estimate(net, make, shape, averages=0, activations=casts)
    (folder / f"weight{env.rank}.json").write_text(json.dumps([live.peak_bytes, need.total]))


def count_moved(case: str, folder: Path, env: processes.Env) -> None:
    """Write the share of weights that moved in a good step, and in one that was skipped."""
    trainer = run(case, folder, env, bad=range(GLOBAL_BATCH * STEPS), stop_at=1)
    shares, hook = [], MovedHook(every=1)
    for bad in ((), range(10**6)):
        trainer.batches.bad = set(bad)
        hook.before_train(trainer)
        metrics = trainer.train_step()
        hook.after_step(trainer, metrics)
        shares.append(processes.mean_over_ranks(metrics.values["moved"]).item())
    (folder / f"moved{env.rank}.json").write_text(json.dumps(shares))


def main(folder: Path, case: str) -> None:
    """A case whole, interrupted, continued from one process, in low precision, and with a NaN."""
    torch.set_num_threads(1)
    os.fsync = lambda handle: None  # waiting for a busy disk is most of a toy run's time
    env = processes.init()
    trainer = run(case, folder / case / "whole", env)
    seen = look(trainer)
    (folder / case / f"seen{env.rank}.json").write_text(json.dumps(seen))
    gather_average(trainer, folder / case)
    run(case, folder / case / "evaluated", env, evaluate=1)
    run(case, folder / case / "cut", env, stop_at=CUT)
    run(case, folder / case / "cut", env)
    run(case, folder / case / "from_one", env, resume=str(folder / "single/cut"))
    run(case, folder / case / "bfloat16", env, precision="bfloat16", stop_at=CUT)
    run(case, folder / case / "duel", env, method=Duel, stop_at=CUT)
    run(case, folder / case / "duel", env, method=Duel)
    run(case, folder / case / "bad", env, bad=[GLOBAL_BATCH + 1], stop_at=3)
    count_moved(case, folder / case / "moved", env)
    count_messages(case, folder / case, env)
    if case in WEIGHED:
        weigh(case, folder / case, env)
    processes.shutdown()


def rehearse(folder: Path, cases: Sequence[str]) -> None:
    """Import all that the cases do, which takes longer than they: their processes share it."""
    torch.set_num_threads(1)
    run("single", folder / "rehearsal", background=False)
    if any(CASES[case][0] == "deepspeed" for case in cases):
        load_deepspeed()
        importlib.import_module("torch._inductor.compile_fx")  # which its engines import late


def fork(world: int, folder: Path, case: str) -> list[int]:
    """Run `main` as so many processes; their exit codes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    (folder / case).mkdir(parents=True, exist_ok=True)
    log = os.open(folder / case / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    forks = [_fork(rank, log, folder, case) for rank in range(world)]
    os.close(log)
    return children.wait(forks, limit_s=CASE_S)


def _fork(rank: int, log: int, folder: Path, case: str) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        main(folder, case)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what is left are the threads of DeepSpeed and gloo


if __name__ == "__main__":
    world, folder, cases = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    rehearse(folder, cases)
    for case in cases:
        codes = fork(world, folder, case)
        (folder / case / CODES).write_text(json.dumps(codes))
