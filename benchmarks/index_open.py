# SPDX-License-Identifier: Apache-2.0
"""How long a folder of very many records takes to open, and how much memory that takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

SIZE = 262_144 + 300  # bytes of a record
PER_SHARD = 4096  # records of 1 GiB
SHAPES = ((8, 128, 128), (8, 64, 256))

OPEN = """
import json, sys, time
import numpy as np
from diffnext.data.loader import Loader
from diffnext.data.records import open_reader

def resident_mib():
    with open("/proc/self/smaps_rollup") as stream:
        kib = {line.split()[0]: int(line.split()[1]) for line in stream if line.endswith("kB\\n")}
    return kib["Rss:"] / 1024, kib["Anonymous:"] / 1024

before = resident_mib()
start = time.perf_counter()
reader = open_reader(sys.argv[1])
opened = time.perf_counter()
loader = Loader(reader, batch_size=16, num_threads=0)
plan = loader.sampler[0]
rows = reader.index.locate_all(plan.index)
ready = time.perf_counter()
after = resident_mib()
grown = [b - a for a, b in zip(before, after)]
print(json.dumps([opened - start, ready - opened, *grown]))
"""


def generate(folder: Path, count: int) -> None:
    """A finished folder whose shards are holes, without the binary copy of its index."""
    lines = [b"%d %d\n" % (i * SIZE, SIZE) for i in range(PER_SHARD)]
    rng = np.random.default_rng(0)
    for number, first in enumerate(range(0, count, PER_SHARD)):
        here = min(PER_SHARD, count - first)
        stem = folder / f"{number:05d}"
        with open(stem.with_suffix(".data"), "wb") as stream:
            stream.truncate(here * SIZE)
        stem.with_suffix(".index").write_bytes(b"".join(lines[:here]))
        stem.with_suffix(".check").write_bytes(rng.integers(1, 2**63, here, np.int64).tobytes())
    metadata = {"entries": count, "features": {"moments": "BYTES", "shape": ["INT64"]}}
    (folder / "METADATA").write_text(json.dumps({**metadata, "version": 1}))


def add_shapes(folder: Path) -> None:
    """Put a table of two shapes into the binary copy, which reading all records would have found."""
    from diffnext.data.records import index as indexing
    from diffnext.data.records import open_reader

    reader = open_reader(folder)
    ids = (np.arange(len(reader)) * 7 % 5 % 2).astype(np.uint16)
    state = indexing.text_state(str(folder))
    indexing.save(str(folder), reader.index.with_shapes(SHAPES, ids), state)


def measure_index(folder: Path, count: int) -> None:
    """Print times and memory of the first opening and of a later one."""
    generate(folder, count)
    text = sum(file.stat().st_size for file in folder.glob("*.index"))
    shards = len(list(folder.glob("*.index")))
    print(f"{count:,} records in {shards} shards, {text / 1e6:.0f} MB of text index")
    first = in_own_process(
        folder,
        "import sys, time; from diffnext.data.records import open_reader; "
        "start = time.perf_counter(); open_reader(sys.argv[1]); print(time.perf_counter() - start)",
    )
    print(f"first opening, from text     {first:8.3f} s")
    add_shapes(folder)
    size = (folder / "diffnext.index.bin").stat().st_size
    opened, ready, resident, private = in_own_process(folder, OPEN)
    print(f"second opening               {opened:8.3f} s")
    print(f"loader, first batch placed   {ready:8.3f} s")
    print(f"index file                   {size / count:8.2f} bytes a record, mapped")
    print(f"resident, mapped pages too   {resident:8.1f} MiB more")
    print(f"resident, not shared         {private:8.1f} MiB more")


def in_own_process(folder: Path, code: str) -> float | list[float]:
    command = [sys.executable, "-c", code, str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
