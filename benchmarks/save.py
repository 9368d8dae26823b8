# SPDX-License-Identifier: Apache-2.0
"""How long training stands still for a checkpoint: written between the steps, or beside them.

python benchmarks/save.py                                d48w768: weights, AdamW's state, one average
python benchmarks/save.py --model d48w1024 --folder /mnt/runs
python benchmarks/save.py --small                        seconds, to see that it works

Both ways save the same run, in turns. Beside the steps, a save stands for the copy to the host's memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from models import ARCHS, network

from diffnext.data.schema import Batch
from diffnext.distributed import env as processes
from diffnext.engine.backends.base import Backend
from diffnext.engine.checkpoint import CheckpointManager, Content
from diffnext.engine.ema import EMA
from diffnext.engine.lr_scheduler import make_schedule
from diffnext.engine.optim import optimizer_factory
from diffnext.engine.trainer import Trainer
from diffnext.methods.finetune import Finetune
from diffnext.pipelines.nova.pipeline_train_t2i import NOVATrainT2IPipeline
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler
from diffnext.utils import files

WAYS = {"between": False, "beside": True}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=sorted(ARCHS), default="d48w768")
    parser.add_argument(
        "--folder", default=None, help="where to write; a temporary folder if not given"
    )
    parser.add_argument("--saves", type=int, default=3, help="measured saves of each way")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the benchmark")
    args = parser.parse_args()
    if args.small:
        args.model = "small"
    return args


class Position:
    """Stands for a loader."""

    def __iter__(self) -> Iterator[Batch]:
        return iter(())

    def state_dict(self) -> dict:
        return {}


def make_trainer(model: str, env: processes.Env) -> Trainer:
    """A run whose optimizer has its state, as after a first step."""
    net = network(model, size=(256, 256), tokens=8)
    pipe = NOVATrainT2IPipeline(net, DDPMScheduler(), vae_config={"scaling_factor": 0.13025})
    backend = Backend(env, precision="float32")
    make = optimizer_factory("AdamW", lr=1e-4, weight_decay=0.02, beta2=0.95)
    wrapped = backend.add("student", pipe.configure(), make)
    learner = backend.learners["student"]
    for param in learner.named_learning().values():
        param.grad = torch.zeros_like(param)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    return Trainer(
        pipe=pipe,
        method=Finetune(pipe, {"student": wrapped}),
        backend=backend,
        batches=iter(Position()),
        schedules={"student": make_schedule("constant", base_lr=1e-4, max_steps=10**9)},
        max_steps=10**9,
        seed=0,
    )


@contextmanager
def managers(folder: Path, trainer: Trainer) -> Iterator[dict[str, CheckpointManager]]:
    """Those that save in each of the ways; one checkpoint remains of each."""
    weights = trainer.backend.weights("student", learning=True)
    ema = EMA(weights, decays=[0.99], device=trainer.backend.env.device)
    content = Content(module="transformer", loader=Position(), ema=ema)
    made = {
        way: CheckpointManager(
            folder / way, prefix=way, content=content, about={}, keep=1, background=background
        )
        for way, background in WAYS.items()
    }
    for way in made:
        (folder / way).mkdir()
    yield made
    for manager in made.values():
        manager.close()


def measure(manager: CheckpointManager, trainer: Trainer) -> tuple[float, float]:
    """Seconds that the loop stands still, and until the checkpoint is complete."""
    trainer.step += 1
    begin = time.perf_counter()
    manager.save(trainer)
    stall = time.perf_counter() - begin
    manager.finish()
    return stall, time.perf_counter() - begin


def main() -> None:
    args = parse_args()
    env = processes.init()
    about = vars(args) | {"torch": torch.__version__, "device": str(env.device)}
    print(json.dumps(about))
    trainer = make_trainer(args.model, env)
    with (
        tempfile.TemporaryDirectory(dir=args.folder) as folder,
        managers(Path(folder), trainer) as made,
    ):
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in made}
        for _ in range(1 + args.saves):
            for way, manager in made.items():
                times[way].append(measure(manager, trainer))
        written = sum(files.sizes(Path(folder, "beside")).values())
    print(f"{written / 2**30:.3f} GiB a checkpoint, its average included")
    for way, found in times.items():
        stall, whole = (statistics.median(column) for column in zip(*found[1:], strict=True))
        print(f"{way:8} the steps: stands still for {stall:8.3f} s, complete after {whole:8.3f} s")


if __name__ == "__main__":
    main()
