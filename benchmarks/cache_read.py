# SPDX-License-Identifier: Apache-2.0
"""How fast a record folder is read in shuffled batches, as a share of what the kernel could do.

    python benchmarks/cache_read.py                          262,144-byte records (8 x 128 x 128)
    python benchmarks/cache_read.py --kind video             829,440-byte records (8 x 9 x 60 x 96)
    python benchmarks/cache_read.py --index 10_000_000       how long so many records take to open

The floor is measured in the same run: pread of the same records, in the same order, into one buffer;
order and places are worked out before. Each reader has a process of its own, in which it and the floor
are timed in turns, so that a change of the machine's load falls on both. The peak of memory is what
the process grew by while reading, before the floor was measured; of a reader that maps its files,
mapped pages count. "first" is the time from opening to the first batch, in a process that has opened
the folder before: what a reader imports is loaded.

With threads, the consumer takes each batch as soon as it is there and copies it, as a transfer to a
device would.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from index_open import measure_index
from read_formats import BATCH, FORMATS, Examples, Format, write_records

from diffnext.data.loader import Loader
from diffnext.data.records import open_reader

SHAPES = {"image": (8, 128, 128), "video": (8, 9, 60, 96)}
SEED = 1
TURNS = 9


def floor(folder: Path) -> Iterator[int]:
    """Bytes of moments of each batch, read with pread into one buffer."""
    reader = open_reader(folder)
    loader = Loader(reader, batch_size=BATCH, num_threads=0, seed=SEED)
    files = [os.open(path, os.O_RDONLY) for path in sorted(map(str, folder.glob("*.data")))]
    size = int(reader.index.size.max())
    buffer = memoryview(bytearray(BATCH * size))
    slots = [buffer[i * size : (i + 1) * size] for i in range(BATCH)]

    def calls(number: int) -> list[tuple[int, list[memoryview], int]]:
        rows = reader.index.locate_all(loader.sampler[number].index)
        return [
            (files[row[0]], [slot[: row[2]]], row[1]) for row, slot in zip(rows, slots, strict=True)
        ]

    moments = BATCH * 2 * int(np.prod(loader.buckets[0].shape))
    for batch in cycle([calls(number) for number in range(max(1, len(reader) // BATCH))]):
        for call in batch:
            os.preadv(*call)
        yield moments


def diffnext(threads: int, verify: bool) -> Callable[[Path, Examples], Iterator[int]]:
    def read(folder: Path, examples: Examples) -> Iterator[int]:
        options = {"num_threads": threads, "seed": SEED, "verify": verify}
        loader = Loader(open_reader(folder), batch_size=BATCH, **options)
        if not threads:
            while True:
                yield next(loader).moments.nbytes
        target = torch.empty(BATCH, *loader.buckets[0].shape, dtype=torch.float16)
        while True:
            yield target.copy_(next(loader).moments).nbytes

    return read


READERS = {
    "diffnext inline": Format(write_records, diffnext(0, True)),
    "  without checksum": Format(write_records, diffnext(0, False)),
    "diffnext 1 thread": Format(write_records, diffnext(1, True)),
    "  without checksum ": Format(write_records, diffnext(1, False)),
    "diffnext 2 threads": Format(write_records, diffnext(2, True)),
    **FORMATS,
}


# ----------------------------------------------------------------------------- one reader's process


def speed(batches: Iterator[int], seconds: float) -> tuple[float, float]:
    """GB/s, and CPU seconds per GB."""
    start, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        done += next(batches)
    wall = time.perf_counter() - start
    return done / wall / 1e9, (time.process_time() - cpu) / done * 1e9


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, folder: Path, examples: Examples, seconds: float) -> dict[str, float]:
    """Figures of one reader; run in a process of its own."""
    torch.set_num_threads(1)  # the copy of the consumer; threads of OpenMP would spin
    before = peak_mib()
    next(READERS[name].read(folder, examples))
    start = time.perf_counter()
    batches = READERS[name].read(folder, examples)
    next(batches)
    first = time.perf_counter() - start
    speed(batches, min(seconds, 1.0))
    peak = peak_mib() - before
    return {"first_ms": first * 1e3, "peak_mib": peak, **in_turns(batches, folder, seconds)}


def in_turns(batches: Iterator[int], folder: Path, seconds: float) -> dict[str, float]:
    base = floor(folder.parent / "records")
    speed(base, 0.2)  # memory and page cache are warm
    turn = seconds / TURNS
    turns = [(*speed(batches, turn), *speed(base, turn)) for _ in range(TURNS)]
    rate, cpu, low, low_cpu = np.median(turns, axis=0)
    share = float(np.median([row[0] / row[2] for row in turns]))
    return {"rate": rate, "cpu": cpu, "floor": low, "floor_cpu": low_cpu, "share": share}


# ------------------------------------------------------------------------------------ all of them


def compare(folder: Path, examples: Examples, args: argparse.Namespace) -> None:
    """Print a line for each reader."""
    size = 2 * int(np.prod(examples.shape))
    print(f"{examples.count} records of {size} bytes, shuffled, in batches of {BATCH}")
    heads = ("samples/s", "GB/s", "of floor", "CPU s/GB", "first ms", "peak MiB")
    print(" " * 20 + "".join(f"{head:>10}" for head in heads))
    (folder / "records").mkdir()
    write_records(folder / "records", examples)
    for name, reader in READERS.items():
        if args.only and not any(word in name for word in args.only.split(",")):
            continue
        try:
            place = prepare(folder, name, reader, examples)
        except ImportError as error:
            print(f"{name:<20} is left out: {error}")
            continue
        found = in_own_process(name, place, args)
        rate = found["rate"]
        print(
            f"{name:<20}{rate * 1e9 / size:10.0f}{rate:10.2f}{found['share']:10.2f}"
            f"{found['cpu']:10.3f}{found['first_ms']:10.1f}{found['peak_mib']:10.0f}",
            flush=True,
        )
    print(f"{'floor (pread)':<20}{found['floor'] * 1e9 / size:10.0f}", end="")
    print(f"{found['floor']:10.2f}{1:10.2f}{found['floor_cpu']:10.3f}")


def prepare(folder: Path, name: str, reader: Format, examples: Examples) -> Path:
    """Write the examples in the format of a reader, if they are not there."""
    if reader.write is write_records:
        return folder / "records"
    (folder / name).mkdir()
    reader.write(folder / name, examples)
    return folder / name


def in_own_process(name: str, place: Path, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", name, "--dir", str(place)]
    command += ["--kind", args.kind, "--gib", str(args.gib), "--seconds", str(args.seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=sorted(SHAPES), default="image")
    parser.add_argument("--gib", type=float, default=1.0, help="size of the folder")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each reader")
    parser.add_argument("--dir", help="where files are made for the time of the run")
    parser.add_argument("--only", help="readers whose name has one of these words: inline,npz")
    parser.add_argument(
        "--index", type=int, metavar="N", help="open a generated folder of N records"
    )
    parser.add_argument("--child", choices=list(READERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = SHAPES[args.kind]
    examples = Examples(shape, max(BATCH, int(args.gib * 2**30 / (2 * np.prod(shape)))))
    if args.child:
        print(json.dumps(measure(args.child, Path(args.dir), examples, args.seconds)))
        return
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        if args.index:
            measure_index(Path(folder), args.index)
        else:
            compare(Path(folder), examples, args)


if __name__ == "__main__":
    main()
