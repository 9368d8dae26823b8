# SPDX-License-Identifier: Apache-2.0
"""What the number of samples costs around a build: processor time and memory of each step, without media.

    python benchmarks/scale.py [--counts 10_000,100_000] [--dir FOLDER]

The samples are rows of a table; what was seen of them and what was encoded is written down as a build
would, so that nothing is decoded or encoded. Each step has a process of its own, which keeps what the
step returns while its memory is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from diffnext.data import parts, worklist
from diffnext.data.cache_folder import open_journal
from diffnext.data.cache_identity import MadeBy, make_identity
from diffnext.data.cache_plan import Plan, make_plan
from diffnext.data.choices import Choices
from diffnext.data.journal import JOURNAL, write_entries
from diffnext.data.latents import Latents
from diffnext.data.plan_table import table
from diffnext.data.records import open_writer, write_identity
from diffnext.data.sources import scan
from diffnext.data.tools.algebra import filter_cache, merge_caches
from diffnext.data.tools.verify import check
from diffnext.data.view_rules import Chosen, ViewRules
from diffnext.data.views import View

RULES = ViewRules(sizes=(((8, 8),),))
LATENTS = Latents(channels=4, time_stride=1, space_stride=8)
MADE_BY = MadeBy(vae={"class": "none"}, dtype="float32")
MEDIA = "media.parquet"
ROWS = 10_000  # of the table that are written at a time


def write_table(folder: Path, count: int) -> None:
    schema = pa.schema({"image": pa.binary(), "caption": pa.string()})
    with parquet.ParquetWriter(folder / MEDIA, schema) as writer:
        for first in range(0, count, ROWS):
            rows = range(first, min(first + ROWS, count))
            captions = [f"a photograph of some {row} things, somewhere" for row in rows]
            writer.write_table(pa.table([[b"\0"] * len(rows), captions], schema=schema))


def plan_of(folder: Path, cache: str) -> Plan:
    options = {"rules": RULES, "latents": LATENTS, "made_by": MADE_BY, "workers": 0}
    return make_plan(scan(str(folder / MEDIA)), str(folder / cache), remember=True, **options)


def see_all(folder: Path, cache: str) -> None:
    """Write down what a build would have seen of each medium."""
    os.makedirs(folder / cache)
    choices, chosen = Choices(str(folder / cache), RULES, store=True), Chosen(8, 8, (View(8, 8),))
    for source in scan(str(folder / MEDIA)).sources:
        choices.add(source.path, source.location.stamp(), chosen)
    choices.close()


def records(plan: Plan, into: str, tasks: list) -> None:
    """Write what a build of these tasks would have written."""
    items = [item for task in tasks for item in task.items]
    moments = np.random.default_rng(0).standard_normal(8).astype(np.float16).tobytes()
    with open_writer(into, plan.fields) as writer:
        for item in items:
            writer.write({"shape": [8, 1, 1], "moments": moments, **item.source.fields()})
    entries = (item.entry(hashlib.sha256(item.source.path.encode()).hexdigest()) for item in items)
    write_entries(os.path.join(into, JOURNAL), entries)


def prepare(folder: Path, count: int) -> None:
    """A table; a cache of it, half of one, one with nothing yet, and one with a part to be joined."""
    write_table(folder, count)
    for cache in ("new", "whole", "half", "parts"):
        see_all(folder, cache)
    plan = plan_of(folder, "new")
    for cache, tasks in (("whole", plan.tasks), ("half", plan.tasks[: count // 2])):
        records(plan, str(folder / cache), tasks)
        names = ["caption", "text"]
        write_identity(folder / cache, make_identity(MADE_BY, LATENTS, names))
    plan.output = str(folder / "parts")
    plan.begin()
    work = worklist.create(plan, {}, leader="none")
    tasks = [task for unit in range(len(work.units)) for task in work.tasks(unit)]
    records(plan, os.path.join(work.parts, "one"), tasks)
    parts.close_part(os.path.join(work.parts, "one"))


def first_build(folder: Path) -> Any:
    plan = plan_of(folder, "new")
    return plan, table(plan)


def second_build(folder: Path) -> Any:
    plan = plan_of(folder, "whole")
    assert not plan.tasks
    return plan, table(plan)


def join(folder: Path) -> None:
    output = str(folder / "parts")
    parts.join(output, worklist.find(output), print)


STEPS: dict[str, Callable[[Path], Any]] = {
    "list": lambda folder: scan(str(folder / MEDIA)),
    "plan, nothing built": first_build,
    "plan, all built": second_build,
    "plan, half built": lambda folder: plan_of(folder, "half"),
    "journal": lambda folder: open_journal(str(folder / "whole")),
    "join": join,
    "verify": lambda folder: check(str(folder / "whole")),
    "filter": lambda folder: filter_cache(folder / "whole", folder / "some", ["record>0"]),
    "merge": lambda folder: merge_caches([folder / "half", folder / "whole"], folder / "all"),
}


def measure(work: Callable[..., Any], *args: Any) -> tuple[float, float, float]:
    """Seconds of a processor, bytes that are held at the end, and bytes at the peak."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(send, work, *args))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"a step ended with {process.exitcode}")
    return receive.recv()


def _measure(send: Any, work: Callable[..., Any], *args: Any) -> None:
    before = _memory("VmRSS")
    start = time.process_time()
    held = work(*args)
    seconds = time.process_time() - start
    send.send((seconds, _memory("VmRSS") - before, _memory("VmHWM") - before))
    del held


def _memory(name: str) -> int:
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) << 10 for line in stream if line.startswith(name))


def rows(counts: Sequence[int], place: str | None) -> Iterator[str]:
    yield f"{'':22}{'samples':>10}{'CPU s / 100k':>14}{'bytes held':>12}{'bytes peak':>12}"
    for count in counts:
        with tempfile.TemporaryDirectory(dir=place) as name:
            folder = Path(name)
            measure(prepare, folder, count)
            for step, work in STEPS.items():
                seconds, held, peak = measure(work, folder)
                cells = f"{seconds * 1e5 / count:14.2f}{held / count:12.0f}{peak / count:12.0f}"
                yield f"{step:<22}{count:>10}{cells}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="10_000,100_000", help="samples, several with commas")
    parser.add_argument("--dir", help="where files are made for the time of the run")
    args = parser.parse_args()
    for row in rows([int(count) for count in args.counts.split(",")], args.dir):
        print(row, flush=True)


if __name__ == "__main__":
    main()
