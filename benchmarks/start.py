# SPDX-License-Identifier: Apache-2.0
"""CPU seconds that commands take which refuse a run, or have nothing to do: what they import.

    python benchmarks/start.py

A cache of one picture is built with the autoencoder in assets/; the training is given another one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL, OTHER = ROOT / "assets" / "nova_shapes", ROOT / "assets" / "nova_shapes_video"
DIFFNEXT = "import sys; from diffnext.cli import main; sys.exit(main())"


def cpu_s(code: str, words: Sequence[str] = (), *, repeats: int = 1) -> float:
    """User and system time of a new process that runs `code`, the least of several."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    times = []
    for _ in range(repeats):
        before = os.times()
        subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True)
        after = os.times()
        user = after.children_user - before.children_user
        times.append(user + after.children_system - before.children_system)
    return min(times)


def commands(folder: Path) -> dict[str, list[str]]:
    """Command lines by what they are to show; the first builds what the others look at."""
    photo, cache = ROOT / "assets" / "sample_image.jpg", str(folder / "cache")
    (folder / "photos.jsonl").write_text(f'{{"path": "{photo}", "caption": "A sample."}}')
    build = ["cache", "build", "--input", str(folder / "photos.jsonl"), "--output", cache]
    build += ["--vae", str(MODEL), "--resolution", "64", "--device", "cpu"]
    train = ["train", "--cfg", str(ROOT / "configs/demo/shapes_t2i.yml"), "TRAIN.DATASET", cache]
    train += ["MODEL.WEIGHTS", str(MODEL), "PIPELINE.MODULES.vae", str(OTHER / "vae")]
    return {
        "cache build, one picture": build,
        "cache build, nothing left": build,
        "cache info": ["cache", "info", cache],
        "cache verify": ["cache", "verify", cache],
        "cache diff": ["cache", "diff", cache, cache],
        "train, refused cache": train,
        "train --dry-run, refused cache": [*train, "--dry-run"],
        "train, two processes, refused": [*train, "NUM_GPUS", "2"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts (default 3)")
    repeats = parser.parse_args().repeats
    for module in ("torch", "diffusers.models"):
        print(f"{cpu_s(f'import {module}', repeats=repeats):6.2f}  import {module}")
    with tempfile.TemporaryDirectory(prefix="diffnext_") as folder:
        for number, (name, words) in enumerate(commands(Path(folder)).items()):
            print(f"{cpu_s(DIFFNEXT, words, repeats=repeats if number else 1):6.2f}  {name}")


if __name__ == "__main__":
    main()
