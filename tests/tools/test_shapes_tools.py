# SPDX-License-Identifier: Apache-2.0
"""The two tools of the shapes world, run as a user runs them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffnext.shapes import files
from diffnext.shapes.captions import parse_prompt
from diffnext.shapes.draw import draw, draw_video
from diffnext.shapes.world import is_heldout, random_scene, realise

ROOT = Path(__file__).parents[2]


def run(tool: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, args)]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=env)


def make(out: Path, **options: object) -> subprocess.CompletedProcess[str]:
    flags = {"images": 6, "videos": 3, "prompts": 10, "seed": 5} | options
    return run(
        "make_shapes.py", "--out", out, *(f"--{key}={value}" for key, value in flags.items())
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "world"
    done = make(out)
    assert done.returncode == 0, done.stderr
    return out


def test_pictures_and_sidecars_agree(world: Path) -> None:
    pictures = sorted((world / "images").glob("*.png"))
    assert len(pictures) == 6
    for index, path in enumerate(pictures):
        scene = random_scene(np.random.default_rng([5, 0, index]))
        np.testing.assert_array_equal(files.read_pixels(path), draw(scene, 64))
        beside = json.loads(path.with_suffix(".json").read_text())
        assert beside["scene"] == scene.names() == parse_prompt(beside["caption"])
        assert beside["text"].endswith(f"{scene.colour} {scene.shape}")


def test_videos_keep_frames_and_colours(world: Path) -> None:
    videos = sorted((world / "videos").glob("*.mp4"))
    assert len(videos) == 3
    for index, path in enumerate(videos):
        scene = random_scene(np.random.default_rng([5, 1, index]), video=True)
        drawn, read = draw_video(scene, 64, 17), files.read_pixels(path)
        assert read.shape == drawn.shape
        error = np.abs(read.astype(float) - drawn).mean((1, 2, 3))
        assert error.max() < 4  # of 255; chroma of half resolution costs most of it, at the edges
        beside = json.loads(path.with_suffix(".json").read_text())
        way = scene.travel * 480  # pixels of 480 lines; 2 s from the first frame to the last
        assert beside["flow"] == pytest.approx(way / 24, abs=1e-4)
        assert beside["scene"] == scene.names() == parse_prompt(beside["caption"])


def test_prompts_of_the_two_splits_differ(world: Path) -> None:
    for kind in ("images", "videos"):
        prompts = {}
        for split in ("train", "heldout"):
            entries = files.read_prompts(world / "prompts" / f"{split}_{kind}.jsonl")
            prompts[split] = {entry["prompt"] for entry in entries}
            assert len(prompts[split]) == 10
            for entry in entries:
                assert parse_prompt(entry["prompt"]) == entry["scene"]
                assert is_heldout(entry["scene"]) == (split == "heldout")
        assert not prompts["train"] & prompts["heldout"]


def test_the_seed_decides_every_byte(world: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "again", images=3, videos=1).returncode == 0
    names = ["images/000002.png", "images/000002.json", "videos/000000.json"]
    for name in [*names, "prompts/heldout_images.jsonl"]:
        assert (tmp_path / "again" / name).read_bytes() == (world / name).read_bytes()
    assert make(tmp_path / "other", images=3, videos=0, seed=6).returncode == 0
    name = "images/000002.png"
    assert (tmp_path / "other" / name).read_bytes() != (world / name).read_bytes()


def test_a_finished_folder_is_left_alone(world: Path) -> None:
    before = (world / "images" / "000000.png").stat().st_mtime_ns
    again = make(world)
    assert again.returncode == 0 and "already" in again.stdout
    assert (world / "images" / "000000.png").stat().st_mtime_ns == before


def test_another_or_unfinished_world_is_drawn_anew(tmp_path: Path) -> None:
    assert make(tmp_path / "new", images=3, videos=0).returncode == 0
    assert make(tmp_path / "new", images=2, videos=0).returncode == 0
    assert len(list((tmp_path / "new" / "images").iterdir())) == 4
    (tmp_path / "new" / "images" / "000000.png").unlink()
    mark = tmp_path / "new" / "shapes.json"
    mark.write_text(mark.read_text().replace("true", "false"))
    assert make(tmp_path / "new", images=2, videos=0).returncode == 0
    assert len(list((tmp_path / "new" / "images").iterdir())) == 4


def test_more_prompts_than_there_are_captions_are_refused(tmp_path: Path) -> None:
    """27 held-out combinations of colour, shape and background in 3 sizes at 9 places."""
    refused = make(tmp_path / "new", prompts=730)
    assert refused.returncode == 2 and "held-out pictures have 729 captions" in refused.stderr
    assert not (tmp_path / "new").exists()


def test_somebody_elses_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"mine")
    refused = make(tmp_path)
    assert refused.returncode == 2 and "choose another --out" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.parametrize("kind", ["images", "videos"])
def test_a_drawn_world_is_right(world: Path, tmp_path: Path, kind: str) -> None:
    done = run("score_shapes.py", "--pictures", world / kind, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["summary"]["all"] == found["summary"]["colour and shape"] == 1.0
    assert found["summary"]["count"] == len(found["pictures"]) == (6 if kind == "images" else 3)
    assert "colour and shape" in done.stdout and "100.0%" in done.stdout


def test_pictures_are_matched_to_prompts_by_number(world: Path, tmp_path: Path) -> None:
    prompts = world / "prompts" / "heldout_images.jsonl"
    rng = np.random.default_rng(0)
    for line, entry in enumerate(files.read_prompts(prompts)[:4]):
        shown = dict(entry["scene"])
        if line == 3:
            shown["shape"] = "star" if shown["shape"] != "star" else "ring"
        for copy in range(2):
            path = tmp_path / "made" / f"{line:03d}_{copy}.png"
            path.parent.mkdir(exist_ok=True)
            files.write_picture(path, draw(realise(shown, rng), 64))
    command = ("--pictures", tmp_path / "made", "--prompts", prompts)
    done = run("score_shapes.py", *command, "--json", tmp_path / "deep" / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "deep" / "found.json").read_text())
    assert found["summary"]["shape"] == found["summary"]["all"] == 0.75
    assert found["summary"]["colour"] == found["summary"]["single"] == 1.0
    assert len(found["missing"]) == 6 and found["diversity"]["prompts"] == 4


def test_a_picture_without_a_prompt_stops_the_tool(world: Path, tmp_path: Path) -> None:
    (tmp_path / "some.png").write_bytes((world / "images" / "000000.png").read_bytes())
    done = run("score_shapes.py", "--pictures", tmp_path)
    assert done.returncode == 1 and "some.png has no prompt" in done.stderr
    beside = {"prompt": "a red circle"}
    (tmp_path / "some.json").write_text(json.dumps(beside))
    prompts = tmp_path / "prompts.jsonl"  # as some editors write it
    train = (world / "prompts" / "train_images.jsonl").read_bytes()
    prompts.write_bytes(b"\xef\xbb\xbf" + train)
    done = run("score_shapes.py", "--pictures", tmp_path, "--prompts", prompts)
    assert done.returncode == 1 and "which --prompts lacks" in done.stderr
    done = run("score_shapes.py", "--pictures", tmp_path)
    assert done.returncode == 0 and "1 scored" in done.stdout
    done = run("score_shapes.py", "--pictures", tmp_path, "--json", tmp_path / "some.png" / "x")
    assert done.returncode == 1 and done.stderr.startswith("error: ")


def test_bad_files_are_named_and_the_others_scored(world: Path, tmp_path: Path) -> None:
    for number in range(2):
        for suffix in (".png", ".json"):
            name = f"00000{number}{suffix}"
            (tmp_path / name).write_bytes((world / "images" / name).read_bytes())
    files.write_picture(tmp_path / "large.png", np.full((96, 96, 3), 200, np.uint8))
    (tmp_path / "large.json").write_bytes((tmp_path / "000001.json").read_bytes())
    caption = json.dumps({"caption": "a red circle"})
    bad = {"torn": caption, "list": "[1]", "half": '{"caption"', "dog": '{"caption": "a dog"}'}
    for name, beside in bad.items():
        (tmp_path / f"{name}.png").write_bytes((tmp_path / "000001.png").read_bytes())
        (tmp_path / f"{name}.json").write_text(beside)
    torn = tmp_path / "torn.png"
    torn.write_bytes(torn.read_bytes()[:90])

    done = run("score_shapes.py", "--pictures", tmp_path, "--json", tmp_path / "found" / "x.json")
    assert done.returncode == 1 and "3 scored" in done.stdout
    for name in bad:
        assert f"error: {tmp_path / name}.png is not scored: " in done.stderr
    assert "half.json is not JSON" in done.stderr and "names no attribute" in done.stderr
    found = json.loads((tmp_path / "found" / "x.json").read_text())
    assert sorted(found["failed"]) == sorted(f"{name}.png" for name in bad)
    assert found["summary"]["count"] == 3


def test_the_guide_can_be_followed(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "shapes.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    exec(compile(code, "docs/shapes.md", "exec"), {})
    commands = re.findall(r"^python tools/(.*)$", guide, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        tool, *args = shlex.split(command)
        here = [re.sub(r"^(runs/shapes|made)\b", rf"{tmp_path}/\1", arg) for arg in args]
        if "--prompts" in here:
            scene = files.read_prompts(Path(here[here.index("--prompts") + 1]))[0]["scene"]
            (tmp_path / "made").mkdir()
            picture = draw(realise(scene, np.random.default_rng(0)), 64)
            files.write_picture(tmp_path / "made" / "000_0.png", picture)
        done = run(tool, *here)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "made" / "scores.json").read_text())
    assert found["summary"]["all"] == 1.0 and len(found["missing"]) == 199
