# SPDX-License-Identifier: Apache-2.0
"""Draw captioned pictures and videos of the shapes world, and prompts to train and to test with."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from tqdm import trange

from diffnext.cli.common import guarded
from diffnext.shapes import files
from diffnext.shapes.captions import caption
from diffnext.shapes.draw import draw, draw_video
from diffnext.shapes.world import PICTURE, SPLITS, VALUES, Scene, is_heldout, random_scene

IMAGE, VIDEO, PROMPT = range(3)  # streams of random numbers: one never disturbs another
FOLDERS = ("images", "videos", "prompts")
MARK = "shapes.json"  # tells the folder's settings, and whether it is finished


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--images", type=int, default=2000, help="number of pictures")
    parser.add_argument("--videos", type=int, default=0, help="number of videos")
    parser.add_argument("--size", type=int, default=64, help="side in pixels, even")
    parser.add_argument("--frames", type=int, default=17, help="frames of a video")
    parser.add_argument("--prompts", type=int, default=200, help="prompts of each split and kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.size < 32 or args.size % 2:
        parser.error(f"--size is {args.size}, wanted an even number from 32 up")
    if args.frames < 2:
        parser.error(f"--frames is {args.frames}, wanted 2 or more")
    for name in ("images", "videos", "prompts", "seed"):
        if getattr(args, name) < 0:
            parser.error(f"--{name} is {getattr(args, name)}, wanted 0 or more")
    if args.prompts > most_prompts():
        parser.error(
            f"--prompts is {args.prompts}, but held-out pictures have {most_prompts()} captions"
        )
    return args


@functools.cache
def most_prompts() -> int:
    """Different captions of held-out pictures, of which there are fewest."""
    every = itertools.product(*(VALUES[key] for key in PICTURE))
    return sum(is_heldout(dict(zip(PICTURE, values, strict=True))) for values in every)


def write_images(folder: Path, *, count: int, size: int, seed: int) -> None:
    """Draw `count` training pictures; picture i depends on the seed, the size and i only."""
    folder.mkdir(parents=True)
    for index in trange(count, desc="images", unit="image", disable=None):
        scene = random_scene(np.random.default_rng([seed, IMAGE, index]))
        path = folder / f"{index:06d}.png"
        files.write_picture(path, draw(scene, size))
        files.write_json(path.with_suffix(".json"), files.sidecar(scene))


def write_videos(folder: Path, *, count: int, size: int, frames: int, seed: int) -> None:
    """Draw `count` training videos. Their "flow" is the speed of the shape, see `Scene.flow`."""
    folder.mkdir(parents=True)
    for index in trange(count, desc="videos", unit="video", disable=None):
        scene = random_scene(np.random.default_rng([seed, VIDEO, index]), video=True)
        path = folder / f"{index:06d}.mp4"
        files.write_video(path, draw_video(scene, size, frames))
        beside = files.sidecar(scene) | {"flow": round(scene.flow(frames, files.FPS), 4)}
        files.write_json(path.with_suffix(".json"), beside)


def prompt_scenes(split: str, *, video: bool, count: int, seed: int) -> list[Scene]:
    """Scenes of `count` different captions."""
    rng = np.random.default_rng([seed, PROMPT, SPLITS.index(split), int(video)])
    scenes: dict[str, Scene] = {}
    while len(scenes) < count:
        scene = random_scene(rng, split, video=video)
        scenes[caption(scene)] = scene
    return list(scenes.values())


def write_prompts(folder: Path, *, count: int, seed: int) -> None:
    """Write `count` prompts of each split, for pictures and for videos."""
    folder.mkdir(parents=True)
    for split in SPLITS:
        for kind, video in (("images", False), ("videos", True)):
            scenes = prompt_scenes(split, video=video, count=count, seed=seed)
            files.write_prompts(folder / f"{split}_{kind}.jsonl", scenes)


def make_way(out: Path, settings: dict[str, int]) -> bool:
    """Prepare the folder; False if it already holds just these pictures.

    Raises:
        FileExistsError: the folder holds something that this tool did not write.
    """
    mark = out / MARK
    if mark.is_file():
        found = json.loads(mark.read_text(encoding="utf-8"))
        if found == {"settings": settings, "finished": True}:
            return False
        for name in FOLDERS:
            shutil.rmtree(out / name, ignore_errors=True)
    elif out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} holds other files; delete it or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(mark, {"settings": settings, "finished": False})
    return True


def main(argv: list[str] | None = None) -> int:
    return guarded("make_shapes", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Write everything, unless it is there. Returns the exit code."""
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    if not make_way(args.out, settings):
        print(f"{args.out} already holds these pictures")
        return 0
    images, videos, prompts = (args.out / name for name in FOLDERS)
    size, seed = args.size, args.seed
    write_images(images, count=args.images, size=size, seed=seed)
    write_videos(videos, count=args.videos, size=size, frames=args.frames, seed=seed)
    write_prompts(prompts, count=args.prompts, seed=seed)
    files.write_json(args.out / MARK, {"settings": settings, "finished": True})
    print(
        f"{args.out}: {args.images} images, {args.videos} videos, {args.prompts} prompts of a kind"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
