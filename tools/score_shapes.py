# SPDX-License-Identifier: Apache-2.0
"""Measure from pixels alone whether pictures and videos of shapes show what their prompts say.

A picture's prompt is the "prompt" (or "caption") of the .json file beside it; without one, the
first number in the picture's name is the line of its prompt in --prompts, from 0.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffnext.shapes import files
from diffnext.shapes.captions import parse_prompt
from diffnext.shapes.score import aggregate, diversity, judge
from diffnext.shapes.see import Seen, see


@dataclass(frozen=True)
class Scored:
    """One picture or video, its prompt, and what was found."""

    path: Path
    prompt: str
    pixels: np.ndarray
    seen: Seen
    right: dict[str, bool]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures or videos")
    parser.add_argument("--prompts", type=Path, help='JSON lines {"prompt": ..., "scene": {...}}')
    parser.add_argument("--json", type=Path, help="write all that was found here")
    return parser.parse_args(argv)


def find_prompt(path: Path, prompts: list[str]) -> str:
    """The prompt of a picture. `prompts` is empty if only the file beside the picture can tell.

    Raises:
        ValueError: there is none, or it is not one of `prompts`.
    """
    beside = path.with_suffix(".json")
    prompt = read_prompt(beside) if beside.is_file() else None
    if prompt is not None:
        if prompts and prompt not in prompts:
            raise ValueError(f"{beside} has the prompt {prompt!r}, which --prompts lacks")
        return prompt
    number = re.search(r"\d+", path.stem)
    if number is None or int(number.group()) >= len(prompts):
        raise ValueError(
            f"{path} has no prompt: neither a .json with one beside it, nor the number of one of"
            f" {len(prompts)} lines of --prompts in its name"
        )
    return prompts[int(number.group())]


def read_prompt(beside: Path) -> str | None:
    """The prompt, or else the caption, in the .json beside a picture; None if it has neither."""
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{beside} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{beside} holds {type(content).__name__}, wanted is an object")
    prompt = content.get("prompt", content.get("caption"))
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError(f"{beside} has the prompt {prompt!r}, wanted is text")
    return prompt


def score_folder(
    folder: Path, entries: list[dict[str, Any]]
) -> tuple[list[Scored], dict[Path, str]]:
    """Score each picture and video of a folder, in the order of their names.

    Returns:
        What was scored; and, by path, the reasons why others could not be.
    """
    paths = [p for p in folder.iterdir() if p.suffix.lower() in files.PICTURES + files.VIDEOS]
    if not paths:
        raise ValueError(f"{folder} holds no picture and no video")
    scored, failed = [], {}
    for path in tqdm(sorted(paths), desc="scoring", disable=None):
        try:
            scored.append(score_file(path, entries))
        except (OSError, ValueError) as error:
            failed[path] = str(error)
    return scored, failed


def score_file(path: Path, entries: list[dict[str, Any]]) -> Scored:
    """Score one picture or video. What is wanted is the "scene" of its entry, else its prompt."""
    prompt = find_prompt(path, [entry["prompt"] for entry in entries])
    scenes = [entry.get("scene") for entry in entries if entry["prompt"] == prompt]
    pixels = files.read_pixels(path)
    seen = see(pixels)
    wanted = (scenes and scenes[-1]) or parse_prompt(prompt)
    return Scored(path, prompt, pixels, seen, judge(seen, wanted))


def mean_diversity(scored: list[Scored]) -> dict[str, float] | None:
    """Diversity within a prompt, root mean square over the prompts with two or more pictures.

    Pictures of one prompt but of another size, or videos of another length, are apart from each other.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[Scored]] = {}
    for one in scored:
        groups.setdefault((one.prompt, one.pixels.shape), []).append(one)
    found = [
        diversity([one.pixels for one in group], [one.seen for one in group])
        for group in groups.values()
    ]
    known = [values for values in found if values is not None]
    if not known:
        return None
    squares = {key: np.mean([values[key] ** 2 for values in known]) for key in known[0]}
    return {"prompts": len(known)} | {key: float(np.sqrt(value)) for key, value in squares.items()}


def report(scored: list[Scored], failed: dict[Path, str], prompts: list[str]) -> dict[str, Any]:
    """All that was found, as it is written to --json."""
    pictures = [
        {
            "file": one.path.name,
            "prompt": one.prompt,
            "right": one.right,
            "seen": dict(one.seen.names),
            "margins": {key: round(value, 4) for key, value in one.seen.margins.items()},
        }
        for one in scored
    ]
    return {
        "summary": aggregate([one.right for one in scored]),
        "diversity": mean_diversity(scored),
        "missing": sorted(set(prompts) - {one.prompt for one in scored}),
        "failed": {path.name: reason for path, reason in failed.items()},
        "pictures": pictures,
    }


def show(found: dict[str, Any]) -> None:
    summary = dict(found["summary"])
    print(f"{summary.pop('count')} scored, {len(found['missing'])} prompts without a picture")
    for key, share in summary.items():
        print(f"  {key:18s}{share:7.1%}")
    if found["diversity"] is not None:
        print("diversity within a prompt")
        for key, value in found["diversity"].items():
            print(f"  {key:18s}{value:7.3g}")


def main(argv: list[str] | None = None) -> int:
    try:
        return run(parse_args(argv))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    """Score everything. Returns the exit code: 1 if something could not be scored."""
    entries = files.read_prompts(args.prompts) if args.prompts else []
    scored, failed = score_folder(args.pictures, entries)
    for path, reason in failed.items():
        print(f"error: {path} is not scored: {reason}", file=sys.stderr)
    if not scored:
        return 1
    found = report(scored, failed, [entry["prompt"] for entry in entries])
    show(found)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(args.json, found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
