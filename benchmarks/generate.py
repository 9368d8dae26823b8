# SPDX-License-Identifier: Apache-2.0
"""Time and memory of sampling: networks of the published sizes, eager against compiled.

python benchmarks/generate.py                                   d48w768 at 256 px
python benchmarks/generate.py --model d48w1024 --pixels 1024 --dtype bfloat16 --device cuda
python benchmarks/generate.py --small                           seconds, to see that it works

Weights and prompt embeddings are random: the time does not depend on them. The network samples
latents; text encoder and autoencoder are not part of it. The peak of memory is that of a process of
its own for each mode.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from models import ARCHS, network

from diffnext.engine.blocks import compile_blocks
from diffnext.models.guidance_scaler import Guidance
from diffnext.models.transformers.generation_3d import generate
from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from diffnext.schedulers.scheduling_ddpm import DDPMScheduler
from diffnext.utils.metrics import memory_bytes

SMALL = {"model": "small", "pixels": 64, "tokens": 8, "steps": 4, "diffusion_steps": 4}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=sorted(ARCHS), default="d48w768")
    parser.add_argument("--pixels", type=int, default=256, help="side of the pictures")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--steps", type=int, default=64, help="autoregressive steps")
    parser.add_argument("--diffusion-steps", type=int, default=25)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3, help="measured calls of each mode")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--no-compile", action="store_true", help="measure eager only")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the benchmark")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)  # the mode of a child
    args = parser.parse_args()
    if args.small:
        vars(args).update(SMALL)
    return args


@torch.no_grad()
def seconds(net: NOVATransformer3DModel, args: argparse.Namespace) -> float:
    """Duration of one call: latents of a batch of pictures."""
    guidance = Guidance(scale=args.guidance_scale)
    generator = torch.Generator().manual_seed(0)
    rows = guidance.num_passes * args.batch
    text = torch.randn(rows, args.tokens, 2560, generator=generator).to(net.device, net.dtype)
    cond = net.embed(text=text, text_length=torch.full((rows,), args.tokens, device=net.device))
    begin = time.perf_counter()
    latents = generate(
        net,
        DDPMScheduler(),
        cond,
        num_frames=1,
        num_ar_steps=args.steps,
        num_diffusion_steps=args.diffusion_steps,
        guidance=guidance,
        generator=generator,
    )
    latents.sum().item()  # waits for the device
    return time.perf_counter() - begin


def report(net: NOVATransformer3DModel, args: argparse.Namespace, mode: str) -> float:
    """Measure after one call to warm up, print, return the median."""
    seconds(net, args)
    times = [seconds(net, args) for _ in range(args.repeats)]
    median, peak = statistics.median(times), peak_bytes(mode) / 2**30
    print(
        f"{mode:9} median {median:8.3f} s  best {min(times):8.3f} s  "
        f"{args.batch / median:7.3f} pictures/s  peak {peak:6.2f} GiB",
        flush=True,
    )
    return median


def peak_bytes(mode: str) -> int:
    """The most memory that a process takes that does nothing but one call."""
    command = [sys.executable, __file__, *sys.argv[1:], "--peak-of", mode]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def print_peak(net: NOVATransformer3DModel, args: argparse.Namespace) -> None:
    """Make one call, and print the memory that this process has taken at most."""
    if args.peak_of == "compiled":
        compile_blocks(net)
    seconds(net, args)
    print(memory_bytes(net.device))


def main() -> None:
    args = parse_args()
    net = network(args.model, size=(args.pixels, args.pixels), tokens=args.tokens)
    net = net.eval().to(args.device, getattr(torch, args.dtype))
    if args.peak_of:
        print_peak(net, args)
        return
    print(json.dumps(vars(args) | {"torch": torch.__version__}))
    count = sum(p.numel() for p in net.parameters())
    print(f"{args.model}: {count / 1e6:.1f} M parameters, {torch.get_num_threads()} threads")
    eager = report(net, args, "eager")
    if not args.no_compile:
        compile_blocks(net)
        print(f"compiled / eager {report(net, args, 'compiled') / eager:.3f}")


if __name__ == "__main__":
    main()
