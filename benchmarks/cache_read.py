# SPDX-License-Identifier: Apache-2.0
"""How fast a record folder is read in shuffled batches, as a share of what the kernel could do.

    python benchmarks/cache_read.py [--kind image|video] [--gib 1] [--seconds 3]

The floor is measured in the same run: pread of the same records, in the same order, into one buffer.
Each reader is timed in turns with the floor, so that a change of the machine's load falls on both.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
from codewithgpu import RecordDataset

from diffnext.data.loader import Loader
from diffnext.data.records import open_reader, open_writer
from diffnext.data.sampler import Sampler

SHAPES = {"image": (8, 128, 128), "video": (8, 9, 60, 96)}  # 262,144 and 829,440 bytes
FIELDS = {"moments": "bytes", "shape": ["int64"], "caption": "string", "text": "string"}
BATCH = 16
TURNS = 5


def build(folder: str, shape: tuple[int, ...], gib: float) -> None:
    """Fill a folder with random moments."""
    rng = np.random.default_rng(0)
    count = max(BATCH, int(gib * 2**30 / (2 * np.prod(shape))))
    with open_writer(folder, FIELDS) as writer:
        for i in range(count):
            moments = rng.integers(0, 2**15, shape, np.uint16)
            caption = f"a long caption, number {i}, with a few more words in it. " * 4
            writer.write({"moments": moments, "shape": shape, "caption": caption, "text": "short"})


def floor(folder: str, seed: int) -> Iterator[int]:
    """Bytes of each batch, read with pread into one buffer."""
    reader = open_reader(folder)
    index = reader.index
    sampler = Sampler(_buckets(folder, seed), global_batch=BATCH, seed=seed)
    files = [os.open(path, os.O_RDONLY) for path in reader._files.paths]
    size = int(index.size.max())
    buffer = memoryview(bytearray(BATCH * size))
    slots = [buffer[i * size : (i + 1) * size] for i in range(BATCH)]
    number = 0
    while True:
        places = [index.locate(record)[:3] for record in sampler[number].index.tolist()]
        for (shard, offset, length), slot in zip(places, slots, strict=True):
            os.preadv(files[shard], [slot[:length]], offset)
        number += 1
        yield sum(place[2] for place in places)


def _buckets(folder: str, seed: int) -> list:
    return Loader(open_reader(folder), batch_size=BATCH, num_threads=0, seed=seed).buckets


def ours(folder: str, seed: int, threads: int) -> Iterator[int]:
    loader = Loader(open_reader(folder), batch_size=BATCH, num_threads=threads, seed=seed)
    for batch in loader:
        yield batch.moments.numel() * 2


def codewithgpu_random(folder: str, seed: int) -> Iterator[int]:
    """The original's reader at random places, stacked into batches as its loader did."""
    dataset = RecordDataset(folder)
    sampler = Sampler(_buckets(folder, seed), global_batch=BATCH, seed=seed)
    number = 0
    while True:
        rows = []
        for record in sampler[number].index.tolist():
            dataset.seek(record)
            row = dataset.read()
            rows.append(np.frombuffer(row["moments"], np.float16).reshape(row["shape"]))
        number += 1
        yield np.stack(rows).nbytes


def speed(batches: Iterator[int], seconds: float) -> tuple[float, float]:
    """GB/s, and CPU seconds per GB."""
    start, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        done += next(batches)
    wall = time.perf_counter() - start
    return done / wall / 1e9, (time.process_time() - cpu) / done * 1e9


def first_batch_ms(open_batches: Callable[[], Iterator[int]]) -> float:
    start = time.perf_counter()
    next(open_batches())
    return (time.perf_counter() - start) * 1e3


def compare(folder: str, seconds: float) -> None:
    """Print a line for each reader: the median of several turns."""
    candidates = {
        "diffnext inline": lambda: ours(folder, 1, 0),
        "diffnext 1 thread": lambda: ours(folder, 1, 1),
        "diffnext 2 threads": lambda: ours(folder, 1, 2),
        "codewithgpu random": lambda: codewithgpu_random(folder, 1),
    }
    print(f"{'':20} {'GB/s':>6} {'of floor':>9} {'CPU s/GB':>9} {'first ms':>9}")
    for name, open_batches in candidates.items():
        first = first_batch_ms(open_batches)
        base, batches = floor(folder, 1), open_batches()
        speed(base, 0.2), speed(batches, 0.2)  # memory and page cache are warm
        turns = [
            (speed(batches, seconds / TURNS), speed(base, seconds / TURNS)) for _ in range(TURNS)
        ]
        rate, cpu = np.median([turn for turn, _ in turns], axis=0)
        ratio = np.median([turn[0] / lowest[0] for turn, lowest in turns])
        print(f"{name:20} {rate:6.2f} {ratio:9.2f} {cpu:9.3f} {first:9.1f}", flush=True)
        del batches
    print(f"{'floor (pread)':20} {np.median([low[0] for _, low in turns]):6.2f} {1:9.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=sorted(SHAPES), default="image")
    parser.add_argument("--gib", type=float, default=1.0, help="size of the folder")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each reader")
    parser.add_argument("--dir", help="where the folder is made for the time of the run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        build(folder, SHAPES[args.kind], args.gib)
        print(f"{len(open_reader(folder))} records of {SHAPES[args.kind]}, batches of {BATCH}")
        compare(folder, args.seconds)


if __name__ == "__main__":
    main()
