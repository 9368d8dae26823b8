# SPDX-License-Identifier: Apache-2.0
"""How fast records are written, as a share of a plain sequential write of the same bytes.

    python benchmarks/cache_write.py [--kind image|video] [--gib 0.5] [--dir FOLDER]

The floor writes the bytes of the records one after another to one file and brings them to the disk at
the end, as the writer does with a shard. All are timed in turns, so that a change of the machine's
load, or of the disk's, falls on each. In a folder that lies in memory (/dev/shm) the disk has no part.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffnext.data.records import open_writer

SHAPES = {"image": (8, 128, 128), "video": (8, 9, 60, 96)}  # 262,144 and 829,440 bytes
FIELDS = {"moments": "bytes", "shape": ["int64"], "caption": "string", "text": "string"}
TURNS = 5
DISTINCT = 64  # records that are made before; all others are the same again


def make_records(shape: tuple[int, ...]) -> list[dict]:
    rng = np.random.default_rng(0)
    captions = [f"a long caption, number {i}, with a few more words in it. " * 4 for i in range(64)]
    return [
        {
            "moments": rng.integers(0, 2**15, shape, np.uint16).tobytes(),
            "shape": shape,
            "caption": captions[i],
            "text": "short",
        }
        for i in range(DISTINCT)
    ]


def write_plainly(folder: Path, records: list[dict], count: int) -> None:
    pieces = [record["moments"] + record["caption"].encode() for record in records]
    with io.FileIO(folder / "plain", "x") as stream:
        for i in range(count):
            stream.write(pieces[i % DISTINCT])
        os.fsync(stream.fileno())


def write_records(folder: Path, records: list[dict], count: int, checksums: bool) -> None:
    with open_writer(folder, FIELDS, shard_bytes=1 << 40, checksums=checksums) as writer:
        for i in range(count):
            writer.write(records[i % DISTINCT])


WRITERS: dict[str, Callable[[Path, list[dict], int], None]] = {
    "plain write": write_plainly,
    "diffnext": lambda *args: write_records(*args, True),
    "  without checksum": lambda *args: write_records(*args, False),
}


def timed(write: Callable, place: str | None, records: list[dict], count: int) -> tuple:
    """Seconds, and CPU seconds, of writing into a new folder."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        start, cpu = time.perf_counter(), time.process_time()
        write(Path(folder), records, count)
        return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=sorted(SHAPES), default="image")
    parser.add_argument("--gib", type=float, default=0.5, help="written in each turn")
    parser.add_argument("--dir", help="where files are made for the time of the run")
    args = parser.parse_args()
    records = make_records(SHAPES[args.kind])
    size = len(records[0]["moments"])
    count = max(DISTINCT, int(args.gib * 2**30 / size))
    turns = np.array(
        [
            [timed(write, args.dir, records, count) for write in WRITERS.values()]
            for _ in range(TURNS)
        ]
    )  # (turns, writers, 2)
    gigabytes = count * size / 1e9
    print(f"{count} records of {size} bytes")
    print(f"{'':20}{'records/s':>10}{'GB/s':>10}{'of floor':>10}{'CPU s/GB':>10}{'of floor':>10}")
    for number, name in enumerate(WRITERS):
        wall, cpu = np.median(turns[:, number], axis=0)
        share, cpu_share = np.median(turns[:, 0] / turns[:, number], axis=0)
        print(
            f"{name:<20}{count / wall:10.0f}{gigabytes / wall:10.2f}{share:10.2f}"
            f"{cpu / gigabytes:10.3f}{cpu_share:10.2f}"
        )


if __name__ == "__main__":
    main()
