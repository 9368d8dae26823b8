# SPDX-License-Identifier: Apache-2.0
"""How fast a record folder is read in shuffled batches, as a share of what the kernel could do.

    python benchmarks/cache_read.py                    all that follows
    python benchmarks/cache_read.py --kind image       262,144-byte records (8 x 128 x 128)
    python benchmarks/cache_read.py --kind video       829,440-byte records (8 x 9 x 60 x 96)
    python benchmarks/cache_read.py --kind index       how long 10 million records take to open

The floor is measured in the same run: pread of the same records, in the same order, into one buffer;
order and places are worked out before. Each reader has a process of its own, in which it and the floor
are timed in turns, so that a change of the machine's load falls on both. The peak of memory is what
the process grew by while reading, before the floor was measured; of a reader that maps its files,
mapped pages count. "first" is the time from opening to the first batch, in a process that has opened
the folder before (what a reader imports is loaded), the median of several.

With threads, the consumer takes each batch as soon as it is there and copies it, as a transfer to a
device would. Both then share the memory's bandwidth, and the cores if there are fewer than threads,
which the floor has for itself. So "beside" is the share of a floor that is read beside the same
consumer: by one thread, two batches ahead, with nothing to decode.
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
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
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
FIRSTS = 6  # openings, of which the first is not counted: it loads what is imported


Call = tuple[int, int, int]  # descriptor, bytes and offset of a record


def floor_calls(folder: Path) -> list[list[Call]]:
    """What is read for each batch of an epoch."""
    reader = open_reader(folder)
    loader = Loader(reader, batch_size=BATCH, num_threads=0, seed=SEED)
    files = [os.open(path, os.O_RDONLY) for path in sorted(map(str, folder.glob("*.data")))]

    def calls(number: int) -> list[Call]:
        rows = reader.index.locate_all(loader.sampler[number].index.tolist())
        return [(files[shard], size, offset) for shard, offset, size, _ in rows]

    return [calls(number) for number in range(max(1, len(reader) // BATCH))]


class OneBuffer:
    """Memory that all batches are read into."""

    def __init__(self, batches: list[list[Call]]) -> None:
        size = max(call[1] for calls in batches for call in calls)
        self.whole = np.empty(BATCH * size, np.uint8)
        self.slots = [memoryview(self.whole)[i * size : (i + 1) * size] for i in range(BATCH)]

    def fill(self, calls: list[Call]) -> OneBuffer:
        for (file, size, offset), slot in zip(calls, self.slots, strict=True):
            os.preadv(file, [slot[:size]], offset)
        return self


def floor(folder: Path, size: int) -> Iterator[int]:
    """Bytes of moments of each batch of which a sample has `size`, read with pread into one buffer."""
    batches = floor_calls(folder)
    buffer = OneBuffer(batches)
    for calls in cycle(batches):
        buffer.fill(calls)
        yield BATCH * size


def floor_beside(folder: Path, size: int) -> Iterator[int]:
    """The same, read two batches ahead by a thread, beside a consumer that copies each batch."""
    batches = floor_calls(folder)
    buffers = cycle([OneBuffer(batches) for _ in range(3)])  # two ahead, one with the consumer
    target = torch.empty(BATCH * size, dtype=torch.uint8)
    with ThreadPoolExecutor(1) as pool:
        calls = cycle(batches)
        due = deque(pool.submit(next(buffers).fill, c) for c in islice(calls, 2))
        while True:
            ready = due.popleft().result()
            due.append(pool.submit(next(buffers).fill, next(calls)))
            yield target.copy_(torch.from_numpy(ready.whole)[: len(target)]).nbytes


def diffnext(threads: int, verify: bool) -> Callable[[Path, Examples], Iterator[int]]:
    def read(folder: Path, examples: Examples) -> Iterator[int]:
        options = {"num_threads": threads, "seed": SEED, "verify": verify}
        loader = Loader(open_reader(folder), batch_size=BATCH, **options)
        target = torch.empty(BATCH, *loader.buckets[0].shape, dtype=torch.float16)
        try:
            while True:
                moments = next(loader).moments
                yield target.copy_(moments).nbytes if threads else moments.nbytes
                del moments
        finally:
            loader.close()

    return read


READERS = {
    "diffnext inline": Format(write_records, diffnext(0, True)),
    "  without checksum": Format(write_records, diffnext(0, False)),
    "diffnext 1 thread": Format(write_records, diffnext(1, True), ahead=True),
    "  without checksum ": Format(write_records, diffnext(1, False), ahead=True),
    "diffnext 2 threads": Format(write_records, diffnext(2, True), ahead=True),
    "  without checksum  ": Format(write_records, diffnext(2, False), ahead=True),
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
    first = float(np.median([first_batch(name, folder, examples) for _ in range(FIRSTS)][1:]))
    batches = READERS[name].read(folder, examples)
    speed(batches, min(seconds, 1.0))
    peak = peak_mib() - before
    floors = [floor, floor_beside] if READERS[name].ahead else [floor]
    records = folder.parent / "records"
    lows = [low(records, 2 * int(np.prod(examples.shape))) for low in floors]
    return {"first_ms": first * 1e3, "peak_mib": peak, **in_turns([batches, *lows], seconds)}


def first_batch(name: str, folder: Path, examples: Examples) -> float:
    """Seconds from opening to the first batch."""
    start = time.perf_counter()
    batches = READERS[name].read(folder, examples)
    next(batches)
    found = time.perf_counter() - start
    batches.close()
    return found


def in_turns(batches: list[Iterator[int]], seconds: float) -> dict[str, float]:
    """Figures of a reader, of the floor, and of the floor beside a consumer if it is given."""
    for low in batches[1:]:
        speed(low, 0.2)  # memory and page cache are warm
    turn = seconds / TURNS
    turns = np.array([[speed(each, turn) for each in batches] for _ in range(TURNS)])
    (rate, cpu), (low, low_cpu), *beside = np.median(turns, axis=0)
    shares = np.median(turns[:, :1, 0] / turns[:, 1:, 0], axis=0).tolist()
    found = {"rate": rate, "cpu": cpu, "floor": low, "floor_cpu": low_cpu, "share": shares[0]}
    return {**found, "beside": shares[1]} if beside else found


# ------------------------------------------------------------------------------------ all of them


def compare(kind: str, folder: Path, args: argparse.Namespace) -> None:
    """Print a line for each reader."""
    examples = examples_of(kind, args.gib)
    size = 2 * int(np.prod(examples.shape))
    print(f"{examples.count} records of {size} bytes, shuffled, in batches of {BATCH}")
    heads = ("samples/s", "GB/s", "of floor", "beside", "CPU s/GB", "first ms", "peak MiB")
    print(" " * 20 + "".join(f"{head:>10}" for head in heads))
    (folder / "records").mkdir()
    write_records(folder / "records", examples)
    found: dict[str, float] = {}
    for name, reader in READERS.items():
        if args.only and not any(word in name for word in args.only.split(",")):
            continue
        try:
            place = prepare(folder, name, reader, examples)
        except (ImportError, RuntimeError) as error:  # what is made for another PyTorch, too
            print(f"{name:<20}is left out: {error}")
            continue
        found = in_own_process(kind, name, place, args)
        rate = found["rate"]
        beside = f"{found['beside']:10.2f}" if "beside" in found else f"{'-':>10}"
        print(
            f"{name:<20}{rate * 1e9 / size:10.0f}{rate:10.2f}{found['share']:10.2f}{beside}"
            f"{found['cpu']:10.3f}{found['first_ms']:10.1f}{found['peak_mib']:10.0f}",
            flush=True,
        )
    if not found:
        return
    print(f"{'floor (pread)':<20}{found['floor'] * 1e9 / size:10.0f}", end="")
    print(f"{found['floor']:10.2f}{1:10.2f}{'-':>10}{found['floor_cpu']:10.3f}")


def prepare(folder: Path, name: str, reader: Format, examples: Examples) -> Path:
    """Write the examples in the format of a reader, if they are not there."""
    if reader.write is write_records:
        return folder / "records"
    (folder / name).mkdir()
    reader.write(folder / name, examples)
    return folder / name


def in_own_process(kind: str, name: str, place: Path, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", name, "--dir", str(place)]
    command += ["--kind", kind, "--gib", str(args.gib), "--seconds", str(args.seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=[*SHAPES, "index"], help="one part instead of all")
    parser.add_argument("--gib", type=float, default=1.0, help="size of the folder")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each reader")
    parser.add_argument("--dir", help="where files are made for the time of the run")
    parser.add_argument("--only", help="readers whose name has one of these words: inline,npz")
    parser.add_argument(
        "--index", type=int, default=10_000_000, metavar="N", help="records of the generated folder"
    )
    parser.add_argument("--child", choices=list(READERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        examples = examples_of(args.kind, args.gib)
        print(json.dumps(measure(args.child, Path(args.dir), examples, args.seconds)))
        return
    for kind in [args.kind] if args.kind else [*SHAPES, "index"]:
        print(f"load of the machine: {os.getloadavg()[0]:.1f}, cores: {os.cpu_count()}")
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            if kind == "index":
                measure_index(Path(folder), args.index)
            else:
                compare(kind, Path(folder), args)


def examples_of(kind: str, gib: float) -> Examples:
    shape = SHAPES[kind]
    return Examples(shape, max(BATCH, int(gib * 2**30 / (2 * np.prod(shape)))))


if __name__ == "__main__":
    main()
