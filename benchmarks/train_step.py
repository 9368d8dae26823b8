# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a training step: the trainer against a hand-written loop, eager and compiled.

python benchmarks/train_step.py                                  d48w768 at 256 px, batch 2
python benchmarks/train_step.py --model d48w1024 --pixels 1024 --precision bfloat16
python benchmarks/train_step.py --model d48w1024 --pixels 480 768 --frames 33 --precision bfloat16
python benchmarks/train_step.py --backend fsdp --processes 2     of two processes, gloo without a GPU
python benchmarks/train_step.py --overhead                       the trainer's own CPU time, and data
python benchmarks/train_step.py --small                          seconds, to see that it works

Both loops step the same network with the same batches, in turns, so that a busy machine slows both.
The peak of memory is that of a process of its own for each loop and mode, which runs before all else, as
two such networks may be more than fits; with several processes, that of the first one over both loops.
GB are 10^9 bytes. Tokens are patches of frames, those of the image encoder; the share of the peak is that
of the floating point operations of a step, recomputation included, in what one product of large matrices
reaches on the same device.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from models import ARCHS, network
from step_flops import Speed, counted, product_speed
from step_overhead import print_overhead
from torch import Tensor

from diffnext.data.schema import Batch
from diffnext.distributed import env as processes
from diffnext.distributed.launched import is_worker
from diffnext.engine.backends import BACKENDS
from diffnext.engine.backends.base import PRECISIONS, Backend
from diffnext.engine.backends.deepspeed_config import merge_config
from diffnext.engine.blocks import compile_blocks
from diffnext.engine.hooks.log import LogHook
from diffnext.engine.lr_scheduler import make_schedule
from diffnext.engine.optim import optimizer_factory
from diffnext.engine.trainer import Trainer
from diffnext.methods.finetune import Finetune
from diffnext.pipelines.nova.pipeline_train_t2i import NOVATrainT2IPipeline
from diffnext.pipelines.nova.pipeline_train_t2v import NOVATrainT2VPipeline
from diffnext.pipelines.nova.train_nova import NOVATrainPipeline
from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler
from diffnext.utils.metrics import memory_bytes
from diffnext.utils.seeding import Draws
from diffnext.utils.writers import JsonlWriter

SMALL = {"model": "small", "pixels": [64], "tokens": 8, "steps": 3}
Peaks = dict[tuple[str, str], int]  # bytes, by mode and loop
WARM_UP = 2  # steps; the second still grows the memory of the allocator


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=sorted(ARCHS), default="d48w768")
    parser.add_argument("--pixels", type=int, nargs="+", default=[256], help="side, or two sides")
    parser.add_argument("--frames", type=int, default=1, help="of videos, 4 k + 1; 1 for pictures")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--repeat", type=int, default=4, help="TRAIN.LOSS_REPEAT")
    parser.add_argument("--checkpointing", type=int, default=0, choices=range(4))
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--backend", default="single", help="single, ddp, fsdp or deepspeed")
    parser.add_argument("--processes", type=int, default=1, help="that train together")
    parser.add_argument("--zero", type=int, default=2, choices=range(4), help="deepspeed's stage")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each loop")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 for its own choice")
    parser.add_argument("--no-compile", action="store_true", help="measure eager only")
    parser.add_argument("--overhead", action="store_true", help="many short steps, CPU seconds")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the benchmark")
    parser.add_argument(
        "--peak-of", nargs=2, help=argparse.SUPPRESS
    )  # the loop and mode of a child
    args = parser.parse_args()
    if args.small:
        vars(args).update(SMALL)
    if len(args.pixels) > 2 or args.frames % 4 != 1:
        parser.error("--pixels takes one or two sides, --frames a multiple of 4 and 1")
    return args


def latent_shape(args: argparse.Namespace) -> tuple[int, int, int]:
    """Frames, height and width of the latents."""
    return (args.frames - 1) // 4 + 1, args.pixels[0] // 8, args.pixels[-1] // 8


def make_pipeline(args: argparse.Namespace) -> NOVATrainPipeline:
    """The model of a published size, with random weights."""
    size, frames = (args.pixels[0], args.pixels[-1]), latent_shape(args)[0]
    net = network(args.model, size=size, tokens=args.tokens, frames=frames)
    options = {"vae_config": {"scaling_factor": 0.13025}, "loss_repeat": args.repeat}
    if frames > 1:
        return NOVATrainT2VPipeline(net, FlowMatchEulerDiscreteScheduler(), **options)
    return NOVATrainT2IPipeline(net, DDPMScheduler(), **options)


def batches(args: argparse.Namespace) -> Iterator[Batch]:
    """One batch for ever, as a loader would give it."""
    generator = torch.Generator().manual_seed(0)
    moments = torch.randn(args.batch, 8, *latent_shape(args), generator=generator).half()
    if torch.cuda.is_available():
        moments = moments.pin_memory()
    prompts = list(torch.randn(args.batch, args.tokens, 2560, generator=generator).half())
    index = torch.arange(args.batch)
    while True:
        yield Batch(moments, index, torch.zeros_like(index), prompts=prompts)


def make_backend(args: argparse.Namespace, env: processes.Env) -> Backend:
    options = {}
    if args.backend == "deepspeed":
        options["config"] = merge_config(
            {"zero_optimization": {"stage": args.zero}},
            batch_size=args.batch,
            accum_steps=1,
            world=env.world,
            precision=args.precision,
            max_norm=0.0,
        )
    return BACKENDS.get(args.backend)(env, precision=args.precision, **options)


def make_trainer(args: argparse.Namespace, env: processes.Env, log: Path) -> Trainer:
    pipe = make_pipeline(args).to(env.device)
    backend = make_backend(args, env)
    make = optimizer_factory("AdamW", lr=1e-4, weight_decay=0.02, beta2=0.95)
    net = backend.add("student", pipe.configure(checkpointing=args.checkpointing), make)
    hook = LogHook([JsonlWriter(log)], display=10**9, samples_per_step=args.batch)
    trainer = Trainer(
        pipe=pipe,
        method=Finetune(pipe, {"student": net}),
        backend=backend,
        batches=batches(args),
        schedules={"student": make_schedule("constant", base_lr=1e-4, max_steps=10**9)},
        max_steps=10**9,
        seed=0,
        hooks=[hook],
    )
    hook.before_train(trainer)
    return trainer


def trainer_step(trainer: Trainer) -> None:
    """What `Trainer.train` does in a step."""
    trainer.timer.start()
    metrics = trainer.train_step()
    trainer.timer.stop()
    trainer.step += 1
    for hook in trainer.hooks:
        hook.after_step(trainer, metrics)


def plain_step(trainer: Trainer) -> Tensor:
    """The floor: no more than a loop of a few lines needs, with the same wrapper and optimizer."""
    learner, pipe = trainer.backend.learners["student"], trainer.pipe
    batch = next(trainer.batches)
    draws = Draws(0, trainer.step, batch.keys(), device=trainer.backend.env.device)
    inputs = pipe.prepare(batch, draws=draws)
    with trainer.backend.autocast():
        loss = pipe.loss(learner.wrapped, inputs).loss
    if hasattr(learner, "engine"):  # of DeepSpeed
        learner.engine.backward(loss)
        learner.engine.step()
    else:
        loss.backward()
        learner.optimizer.step()
        learner.optimizer.zero_grad(set_to_none=True)
    return loss.detach()


LOOPS = {"plain": plain_step, "trainer": trainer_step}


def seconds(step: Callable[[Trainer], object], trainer: Trainer) -> float:
    device = trainer.backend.env.device
    begin = time.perf_counter()
    step(trainer)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def measure(trainer: Trainer, steps: int) -> dict[str, list[float]]:
    """Durations of both loops, taken in turns after the steps to warm up."""
    times: dict[str, list[float]] = {name: [] for name in LOOPS}
    for _ in range(WARM_UP + steps):
        for name, step in LOOPS.items():
            times[name].append(seconds(step, trainer))
    return {name: found[WARM_UP:] for name, found in times.items()}


def peaks_alone(args: argparse.Namespace) -> Peaks:
    """The most memory that a process takes that does nothing but a few steps of one loop."""
    modes = ["eager"] if args.no_compile else ["eager", "compiled"]
    return {(mode, loop): peak_bytes(loop, mode) for mode in modes for loop in LOOPS}


def peak_bytes(loop: str, mode: str) -> int:
    command = [sys.executable, __file__, *sys.argv[1:], "--peak-of", loop, mode]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def print_peak(trainer: Trainer, loop: str, mode: str) -> None:
    """Take the steps to warm up, and print the memory that this process has taken at most."""
    if mode == "compiled":
        compile_blocks(trainer.backend.learners["student"].net)
    for _ in range(WARM_UP):
        seconds(LOOPS[loop], trainer)
    print(memory_bytes(trainer.backend.env.device))


def count(args: argparse.Namespace, trainer: Trainer) -> Speed:
    """Operations of the steps that will be measured first, on average, and how fast they could be."""
    env, begin, total = trainer.backend.env, trainer.step, 0
    for number in range(begin + WARM_UP, begin + WARM_UP + args.steps):
        trainer.step = number  # which the share of masked tokens depends on
        total += counted(lambda: plain_step(trainer))
    trainer.step = begin
    return Speed(total / args.steps, product_speed(env.device, PRECISIONS[args.precision]))


def report(
    args: argparse.Namespace, trainer: Trainer, mode: str, speed: Speed | None, peaks: Peaks
) -> float:
    """Measure one mode, print it, return the trainer's median."""
    times, env = measure(trainer, args.steps), trainer.backend.env
    samples = env.world * args.batch
    tokens = samples * math.prod(latent_shape(args)) // 4
    if not env.is_main:
        return statistics.median(times["trainer"])
    for name, found in times.items():
        median = statistics.median(found)
        peak = peaks.get((mode, name)) or memory_bytes(env.device)
        print(
            f"{mode:9} {name:8} median {median:8.3f} s  best {min(found):8.3f} s  "
            f"{samples / median:7.2f} samples/s  {tokens / median:9.0f} tokens/s  "
            f"peak {peak / 1e9:6.2f} GB" + (f"  share {speed.share(median):6.1%}" if speed else ""),
            flush=True,
        )
    ratio = statistics.median(t / p for t, p in zip(times["trainer"], times["plain"], strict=True))
    print(f"{mode:9} trainer / plain {ratio:.3f}")
    return statistics.median(times["trainer"])


@contextmanager
def prepared(args: argparse.Namespace) -> Iterator[Trainer]:
    """A trainer of the network in question, whose log goes to a folder that is removed."""
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(args, processes.init(), Path(folder, "metrics.jsonl"))
        try:
            yield trainer
        finally:
            trainer.hooks[0].close()


def measure_all(args: argparse.Namespace, trainer: Trainer, peaks: Peaks) -> None:
    """Print the figures of a network, eager, then compiled."""
    env, net = trainer.backend.env, trainer.backend.learners["student"].net
    say = print if env.is_main else _nothing
    say(json.dumps(vars(args) | {"torch": torch.__version__, "device": str(env.device)}))
    size = sum(p.numel() for p in net.parameters())
    speed = count(args, trainer) if env.world == 1 else None
    told = f", {speed}" if speed else ""
    say(f"{args.model}: {size / 1e6:.1f} M parameters, {torch.get_num_threads()} threads{told}")
    eager = report(args, trainer, "eager", speed, peaks)
    if not args.no_compile:
        compile_blocks(net)
        compiled = report(args, trainer, "compiled", speed, peaks)
        say(f"compiled / eager {compiled / eager:.3f}")


def _nothing(line: str) -> None:
    """What processes print that are not the first."""


def start_processes(count: int) -> None:
    """Run this script by torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, f"--nproc-per-node={count}", *sys.argv]
    subprocess.run(command, check=True)


def main() -> None:
    args = parse_args()
    if args.processes > 1 and not is_worker():
        start_processes(args.processes)
        return
    if args.overhead:
        vars(args).update(SMALL | {"frames": 1})
    alone = args.processes == 1 and not args.overhead and not args.peak_of
    peaks = peaks_alone(args) if alone else {}
    with prepared(args) as trainer:
        if args.peak_of:
            print_peak(trainer, *args.peak_of)
        elif args.overhead:
            print_overhead(trainer, plain=plain_step, whole=trainer_step)
        else:
            measure_all(args, trainer, peaks)


if __name__ == "__main__":
    main()
