# SPDX-License-Identifier: Apache-2.0
"""How fast a cache is built: each stage alone, the whole, and a loop that takes one sample at a time.

    python benchmarks/build_cache.py [--kind image|video] [--device cuda] [--workers 8] [--small]

All are timed in turns, so that a change of the machine's load falls on each, and compared turn by
turn; CPU seconds, those of the workers included, do not depend on what else runs. The media are drawn
and the autoencoder is that of the demo, unless --input and --vae name others. On a CPU the stages share
the cores; --threads says how many the autoencoder takes.
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

import numpy as np
import PIL.Image
import torch

from diffnext.data import media
from diffnext.data.cache import build, make_order
from diffnext.data.cache_identity import Latents
from diffnext.data.cache_plan import Plan, make_plan
from diffnext.data.decoding import decode_ahead
from diffnext.data.encoding import Encoder
from diffnext.data.journal import Journal
from diffnext.data.records import open_writer
from diffnext.data.sources import scan
from diffnext.data.view_rules import ViewRules
from diffnext.models.autoencoders.loading import describe_vae, load_vae
from diffnext.models.autoencoders.modeling_utils import strides
from diffnext.shapes import files
from diffnext.shapes.draw import draw, draw_video
from diffnext.shapes.world import random_scene

VAES = {"image": "assets/nova_shapes", "video": "assets/nova_shapes_video"}
FRAMES = {"image": 1, "video": 17}
STAGES = ("decode", "encode", "write")
GRAIN = 6.0  # of the noise that is laid over drawn pictures, so that they decode like photographs


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--kind", choices=sorted(VAES), default="image")
    add("--input", help="folder or manifest; drawn pictures or videos if not given")
    add("--count", type=int, default=256, help="media that are drawn")
    add("--size", type=int, default=768, help="their side in pixels")
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
    if args.small:
        args.count, args.size, args.resolution, args.turns = 12, 96, 64, 1
    return args


def draw_media(folder: Path, args: argparse.Namespace) -> str:
    """Fill a folder with captioned pictures, or videos. Returns its name."""
    folder.mkdir()
    for number in range(args.count):
        rng = np.random.default_rng(number)
        scene = random_scene(rng, video=args.kind == "video")
        path = folder / f"{number:06d}.txt"
        path.write_text(f"Number {number} of a benchmark.")
        if args.kind == "video":
            frames = draw_video(scene, args.size, FRAMES["video"])
            files.write_video(path.with_suffix(".mp4"), frames)
        else:
            pixels = draw(scene, args.size) + rng.normal(0, GRAIN, (args.size, args.size, 3))
            picture = PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(path.with_suffix(".jpg"), quality=92)
    return str(folder)


@dataclass
class Bench:
    """What is built, by what, and where to; each method is one thing to be timed."""

    plan: Plan
    encoder: Encoder
    args: argparse.Namespace
    folder: Path
    builds: int = 0

    def decode(self) -> None:
        """The workers alone: their results are thrown away."""
        for _, outcome in self._decoded(self.args.workers):
            if isinstance(outcome, Exception):
                raise outcome

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

    def whole(self) -> None:
        """The build."""
        output = self._new_folder()
        plan = replace(self.plan, output=output, journal=Journal(output, 0))
        report = build(
            plan, self.encoder, batch_size=self.args.batch_size, workers=self.args.workers
        )
        assert report.written == len(self.plan.items), report.failures

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
    """Load the autoencoder and plan the build."""
    path = args.vae or str(Path(__file__).parents[1] / VAES[args.kind])
    vae = load_vae(path, device=args.device, dtype=getattr(torch, args.dtype))
    latents = Latents(vae.config["latent_channels"], *strides(vae))
    source = args.input or draw_media(folder / "media", args)
    plan = make_plan(
        scan(source),
        str(folder / "cache"),
        rules=ViewRules((((args.resolution, args.resolution),),), (FRAMES[args.kind],)),
        latents=latents,
        vae=describe_vae(path),
        dtype=args.dtype,
    )
    encoder = Encoder(vae, video=latents.time_stride > 1, compiled=args.compile)
    return Bench(plan, encoder, args, folder)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and CPU seconds of this process and of those that it waited for."""
    start, cpu = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - start, cpu_seconds() - cpu


def cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compare(bench: Bench, turns: int) -> None:
    """Print a line for each: the median rate, and the medians of the ratios of each turn."""
    names = (*STAGES, "whole", "one_by_one")
    bench.prepare()
    times = {name: np.empty((turns, 2)) for name in names}
    for turn in range(turns):
        for name in names:
            times[name][turn] = timed(getattr(bench, name))
    count = len(bench.plan.items)
    print(f"{'':12} {'samples/s':>10} {'of the whole time':>18} {'CPU ms/sample':>14}")
    for name in names:
        wall, cpu = np.median(times[name], axis=0)
        share = np.median(times[name][:, 0] / times["whole"][:, 0])
        print(f"{name:12} {count / wall:10.1f} {share:18.2f} {1e3 * cpu / count:14.2f}")
    slowest = max(STAGES, key=lambda name: np.median(times[name][:, 0]))
    over = np.median(times["whole"][:, 0] / times[slowest][:, 0])
    gain = np.median(times["one_by_one"][:, 0] / times["whole"][:, 0])
    print(f"the whole takes {over:.2f} times as long as its slowest stage, {slowest}, alone")
    print(f"one sample at a time takes {gain:.2f} times as long as the whole")


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(args, Path(folder))
        print(
            f"{len(bench.plan.items)} samples of {args.resolution} px, batches of {args.batch_size}, "
            f"{args.workers} workers, {args.device}"
        )
        compare(bench, args.turns)


if __name__ == "__main__":
    main()
