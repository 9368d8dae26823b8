# SPDX-License-Identifier: Apache-2.0
"""How fast a cache is built: each stage alone, the whole, and a loop that takes one sample at a time.

    python benchmarks/build_cache.py [--kind image|video] [--device cuda] [--workers 8] [--small]

All are timed in turns, so that a change of the machine's load falls on each, and compared turn by
turn; CPU seconds, those of the workers included, do not depend on what else runs. The media are drawn
and the autoencoder is that of the demo, unless --input and --vae name others; what is drawn is of such
a size that one worker takes as long for it as the autoencoder, the case that gains most (videos are
too quick for that; there the autoencoder limits).

Beside an autoencoder on the CPU, workers and autoencoder have cores of their own (--threads for the
autoencoder), in the whole and alone. Decoding and the whole are timed from the first medium that came
out of a worker; the time until then, in which worker processes start, has a line of its own.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from cores import Cores, divide_cores, pin
from drawn_media import FRAMES, draw_media, even_size

from diffnext.data import media
from diffnext.data.cache import build, make_order
from diffnext.data.cache_identity import MadeBy
from diffnext.data.cache_plan import Plan, make_plan
from diffnext.data.decoding import decode_ahead
from diffnext.data.encoding import KEPT_BYTES, Encoder
from diffnext.data.journal import Journal
from diffnext.data.latents import Latents
from diffnext.data.records import open_writer
from diffnext.data.sources import scan
from diffnext.data.view_rules import ViewRules
from diffnext.models.autoencoders.loading import describe_vae, load_vae
from diffnext.models.autoencoders.modeling_utils import strides
from diffnext.utils.malloc import keep_freed_memory

VAES = {"image": "assets/nova_shapes", "video": "assets/nova_shapes_video"}
COUNTS = {"image": 512, "video": 24}
STAGES = ("decode", "encode", "write")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--kind", choices=sorted(VAES), default="image")
    add("--input", help="folder or manifest; drawn pictures or videos if not given")
    add("--count", type=int, help="media that are drawn; 512 pictures or 24 videos if not given")
    add("--size", type=int, help="their side in pixels, if not one that takes as long as encoding")
    add("--vae", help="folder of an autoencoder; that of the demo if not given")
    add("--resolution", type=int, default=128, help="side of what is encoded, in pixels")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    add("--batch-size", type=int, default=8)
    add("--workers", type=int, default=1, help="processes that decode")
    add("--threads", type=int, default=1, help="of the autoencoder on a CPU")
    add("--compile", action="store_true", help="torch.compile the autoencoder")
    add("--turns", type=int, default=5, help="times that each is measured")
    add("--small", action="store_true", help="a dozen small media, one turn: a test of this script")
    args = parser.parse_args()
    args.count = args.count or COUNTS[args.kind]
    if args.small:
        args.count, args.size, args.resolution, args.turns = 12, 96, 64, 1
    return args


@dataclass
class Bench:
    """What is built, by what, and where to; each stage is a method that is timed.

    Those that start workers return when the first medium had come out of them.
    """

    plan: Plan
    encoder: Encoder
    args: argparse.Namespace
    folder: Path
    cores: Cores
    builds: int = 0

    def decode(self) -> float:
        """The workers alone: their results are thrown away."""
        begun = 0.0
        for _, outcome in self._decoded(self.args.workers):
            begun = begun or self._begun()
            if isinstance(outcome, Exception):
                raise outcome
        return begun

    def encode(self) -> None:
        """The autoencoder alone, on frames that are there."""
        for batch in self.batches:
            self.encoder(np.stack(batch))

    def write(self) -> None:
        """The writer alone, on moments that are there."""
        with open_writer(self._new_folder(), self.plan.fields) as writer:
            for batch, moments in zip(self.batches, self.moments, strict=True):
                for _ in batch:
                    writer.write(self._record(moments))

    def whole(self) -> float:
        """The build."""
        output, begun = self._new_folder(), []
        plan = replace(self.plan, output=output, journal=Journal(output, 0))
        report = build(
            plan,
            self.encoder,
            batch_size=self.args.batch_size,
            workers=self.args.workers,
            show=lambda meter: begun or begun.append(self._begun()),
        )
        assert report.written == len(self.plan.items), report.failures
        return begun[0]

    def one_by_one(self) -> None:
        """What a script does that takes one sample after another."""
        with open_writer(self._new_folder(), self.plan.fields) as writer:
            for item in self.plan.items:
                [frames] = media.read(media.probe(item.source.path), [item.view])
                writer.write(self._record(self.encoder(np.stack([frames]))[0]))

    def prepare(self) -> None:
        """Frames and moments for the stages alone; this also warms the autoencoder up."""
        clips = (clip for _, outcome in self._decoded(0) for clip in outcome.clips)
        self.batches = list(iter(lambda: list(islice(clips, self.args.batch_size)), []))
        self.moments = [self.encoder(np.stack(batch))[0] for batch in self.batches]

    def _begun(self) -> float:
        """The time, now that all workers are there."""
        pin(self.cores)
        return time.perf_counter()

    def _decoded(self, workers: int) -> Iterator:
        orders = ((task, make_order(task, self.plan)) for task in self.plan.tasks)
        return decode_ahead(orders, workers=workers)

    def _record(self, moments: np.ndarray) -> dict:
        words = {"caption": "A caption of a usual length.", "text": ""}
        return {"shape": moments.shape, "moments": moments.tobytes(), **words}

    def _new_folder(self) -> str:
        self.builds += 1
        return str(self.folder / f"cache{self.builds}")


def make_bench(args: argparse.Namespace, folder: Path) -> Bench:
    """Load the autoencoder, draw the media, and plan the build."""
    if args.device == "cpu":
        keep_freed_memory(KEPT_BYTES)  # as the command does
    path = args.vae or str(Path(__file__).parents[1] / VAES[args.kind])
    vae = load_vae(path, device=args.device, dtype=getattr(torch, args.dtype))
    latents = Latents(vae.config["latent_channels"], *strides(vae))
    encoder = Encoder(vae, video=latents.time_stride > 1, compiled=args.compile)
    if not args.input:
        args.size = args.size or even_size(folder, args, encoder)
    plan = make_plan(
        scan(args.input or draw_media(folder / "media", args)),
        str(folder / "cache"),
        rules=ViewRules((((args.resolution, args.resolution),),), (FRAMES[args.kind],)),
        latents=latents,
        made_by=MadeBy(vae=describe_vae(path), dtype=args.dtype),
    )
    return Bench(plan, encoder, args, folder, divide_cores(args))


def timed(work: Callable[[], float | None]) -> tuple[float, float, float]:
    """Seconds until the work had begun, those after that, and CPU seconds of this process and of
    those that it waited for."""
    start, cpu = time.perf_counter(), cpu_seconds()
    begun = work() or start
    return begun - start, time.perf_counter() - begun, cpu_seconds() - cpu


def cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compare(bench: Bench, turns: int) -> None:
    """Print a line for each: the median rate, and the medians of the ratios of each turn."""
    names = (*STAGES, "whole", "one_by_one")
    pin(bench.cores)
    bench.prepare()
    times = {name: np.empty((turns, 3)) for name in names}
    for turn in range(turns):
        for name in names:
            times[name][turn] = timed(getattr(bench, name))
    count = len(bench.plan.items)
    print(f"start {median(times['whole'][:, 0]):.2f} s, until the first medium is decoded")
    print(f"{'':12} {'samples/s':>10} {'of the whole time':>18} {'CPU ms/sample':>14}")
    for name in names:
        _, wall, cpu = np.median(times[name], axis=0)
        share = np.median(times[name][:, 1] / times["whole"][:, 1])
        print(f"{name:12} {count / wall:10.1f} {share:18.2f} {1e3 * cpu / count:14.2f}")
    slowest = max(STAGES, key=lambda name: np.median(times[name][:, 1]))
    over = np.median(times["whole"][:, 1] / times[slowest][:, 1])
    gain = np.median(times["one_by_one"][:, 1] / times["whole"][:, 1])
    print(f"the whole takes {over:.2f} times as long as its slowest stage, {slowest}, alone")
    print(f"one sample at a time takes {gain:.2f} times as long as the whole")


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(args, Path(folder))
        size = "" if args.input else f" from {args.size} px"
        print(
            f"{len(bench.plan.items)} samples of {args.resolution} px{size}, batches of "
            f"{args.batch_size}, {args.workers} workers, {args.device}; {bench.cores}"
        )
        compare(bench, args.turns)


if __name__ == "__main__":
    main()
