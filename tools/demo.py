# SPDX-License-Identifier: Apache-2.0
"""The whole main job on a world of coloured shapes: media, caches, training, pictures, a report.

Every stage is a command that a user would type for data of their own; this file only types them one
after another. A stage that is done is not run again, one that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from diffnext.shapes.report import Step, Task, write_report

ROOT = Path(__file__).resolve().parents[1]

IMAGE_MODEL = "assets/nova_shapes"
VIDEO_MODEL = "assets/nova_shapes_video"


@dataclass(frozen=True)
class Stage:
    """One command of the demo."""

    name: str
    title: str
    command: tuple[str, ...]
    minutes: float  # about how long it takes on two CPU cores
    output: str = ""  # folder that is emptied if another command or other inputs filled it
    trains: bool = False  # into that folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/demo", help="folder for everything that is made")
    parser.add_argument("--images", type=int, default=6000, help="number of training pictures")
    parser.add_argument("--videos", type=int, default=300, help="number of training videos")
    parser.add_argument(
        "--prompts", type=int, default=96, help="number of held-out picture prompts"
    )
    parser.add_argument("--ar-steps", type=int, default=8, help="sets of tokens a frame")
    parser.add_argument("--diffusion-steps", type=int, default=20, help="steps of each set")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="options for both trainings")
    return parser.parse_args()


def stages(args: argparse.Namespace) -> list[Stage]:
    """The commands, in order. Paths are relative to the repository."""
    out = args.out
    world = ("--images", str(args.images), "--videos", str(args.videos), "--seed", str(args.seed))
    frames = ("--num-frames", "17", "--frame-stride", "1", "--batch-size", "4")
    steps = ("--steps", str(args.ar_steps), "--diffusion-steps", str(args.diffusion_steps))
    steps += ("--guidance-scale", "1.5")
    images = ("--limit", str(args.prompts), "--batch-size", "32", *steps)
    videos = (
        "--limit",
        str(min(args.prompts, 12)),
        "--batch-size",
        "12",
        "--format",
        "gif",
        *steps,
    )
    started = ("MODEL.START_FROM", f"{out}/t2i/ema_checkpoints")
    return [
        Stage(
            "shapes",
            "draw pictures and videos",
            ("tools/make_shapes.py", "--out", f"{out}/data", "--size", "64", *world),
            0.2,
            output=f"{out}/data",
        ),
        cache_stage("images", IMAGE_MODEL, out, ("--batch-size", "64")),
        cache_stage("videos", VIDEO_MODEL, out, frames),
        train_stage("t2i", "images", out, args.opts, 6.5),
        train_stage("t2v", "videos", out, [*started, *args.opts], 2.5),
        *sample_stages("t2i", "images", IMAGE_MODEL, out, images),
        *sample_stages("t2v", "videos", VIDEO_MODEL, out, videos),
    ]


def cache_stage(media: str, model: str, out: str, options: tuple[str, ...]) -> Stage:
    paths = ("--input", f"{out}/data/{media}", "--output", f"{out}/cache/{media}", "--vae", model)
    command = ("tools/build_cache.py", *paths, "--resolution", "64", *options)
    return Stage(f"cache_{media}", f"encode the {media}", command, 0.4, output=paths[3])


def train_stage(task: str, media: str, out: str, opts: list[str], minutes: float) -> Stage:
    config = f"configs/demo/shapes_{task}.yml"
    command = ("scripts/train.py", "--cfg", config, "--exp-dir", f"{out}/{task}")
    dataset = ("TRAIN.DATASET", f"{out}/cache/{media}")
    command = (*command, *dataset, *opts)
    return Stage(
        f"train_{task}",
        f"train on the {media}",
        command,
        minutes,
        output=f"{out}/{task}",
        trains=True,
    )


def sample_stages(
    task: str, media: str, model: str, out: str, options: tuple[str, ...]
) -> list[Stage]:
    prompts, made = f"{out}/data/prompts/heldout_{media}.jsonl", f"{out}/generated/{media}"
    weights = ("--model", model, "--snapshot", f"{out}/{task}/ema_checkpoints")
    sample = ("scripts/generate.py", *weights, "--prompts", prompts, "--out", made, *options)
    score = ("tools/score_shapes.py", "--prompts", prompts, "--pictures", made)
    scores = (*score, "--json", f"{out}/generated/{media}_scores.json")
    return [
        Stage(
            f"sample_{task}", f"generate {media} from held-out prompts", sample, 0.3, output=made
        ),
        Stage(f"score_{task}", f"score the {media}", scores, 0.1),
    ]


def run(plan: list[Stage], out: Path) -> dict[str, float]:
    """Run what is not done yet, and all that follows a stage that was run.

    Returns:
        Seconds that each stage took when it was run.
    """
    marks = out / "stages"
    marks.mkdir(parents=True, exist_ok=True)
    seconds = {}
    key = fingerprint(ROOT / "assets", ROOT / "configs" / "demo")
    for number, stage in enumerate(plan, 1):
        mark = marks / f"{stage.name}.json"
        key = hashlib.sha256("\0".join((key, *stage.command)).encode()).hexdigest()
        done = json.loads(mark.read_text()) if mark.exists() else {}
        if done.get("key") != key:
            if done and stage.output:
                shutil.rmtree(ROOT / stage.output, ignore_errors=True)
            left = sum(later.minutes for later in plan[number - 1 :])
            print(
                f"\n[{number}/{len(plan)}] {stage.title}; about {left:.0f} min to go on two cores"
            )
            done = {"key": key, "seconds": timed(stage)}
            mark.write_text(json.dumps(done))
        seconds[stage.name] = done["seconds"]
    return seconds


def fingerprint(*folders: Path) -> str:
    """Changes with the names, sizes and times of the files in some folders."""
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def timed(stage: Stage) -> float:
    """Run one stage; its output goes to the terminal. Returns seconds.

    Ctrl-C reaches the stage as well, which may have a checkpoint to write: it is waited for.
    """
    print("  python " + " ".join(stage.command), flush=True)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *stage.command], cwd=ROOT)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    if code != 0:
        raise subprocess.CalledProcessError(code, process.args)
    if stage.trains and not is_trained(ROOT / stage.output):
        raise KeyboardInterrupt
    return time.monotonic() - started


def is_trained(run: Path) -> bool:
    """Whether a training has made all its steps; one that a signal has ended in order has not."""
    latest = json.loads((run / "latest.json").read_text())
    options = yaml.safe_load((run / "config.yaml").read_text())
    return latest["step"] >= options["SOLVER"]["MAX_STEPS"]


def tasks(out: Path) -> list[Task]:
    """What the report shows: both trainings."""
    return [
        Task(
            name,
            metrics=out / task / "logs" / "metrics.jsonl",
            scores=out / "generated" / f"{media}_scores.json",
            generated=out / "generated" / media,
        )
        for name, task, media in (
            ("Pictures from text", "t2i", "images"),
            ("Videos from text", "t2v", "videos"),
        )
    ]


def main() -> int:
    args = parse_args()
    plan = stages(args)
    out = ROOT / args.out
    try:
        seconds = run(plan, out)
    except subprocess.CalledProcessError as error:
        print(f"stopped: {error.cmd[1]} ended with exit code {error.returncode}", file=sys.stderr)
        return error.returncode
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    steps = [Step(stage.title, " ".join(stage.command), seconds[stage.name]) for stage in plan]
    print(f"\nThe report is {write_report(out / 'report.html', steps, tasks(out))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
