# SPDX-License-Identifier: Apache-2.0
"""scripts/generate.py writes what its pipeline draws, with what it was made from."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from diffnext.engine.coordinator import describe
from diffnext.pipelines import sampling, sources
from tests.pipelines import tiny

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate.py"
UNTRAINED = SCRIPT.parents[1] / "assets" / "nova_shapes"
FEW = ["--steps", "2", "--diffusion-steps", "2"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    for name in ("t2i", "t2v", "c2i"):
        getattr(tiny, name)().save_pretrained(path / name)
    return path


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in [*arguments, *FEW]])


def record(path):
    return json.loads(path.read_text())


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_help_does_not_wait_for_torch():
    command = [sys.executable, "-X", "importtime", SCRIPT, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "--snapshot" in done.stdout
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.M))
    assert "diffnext.cli.generate" in imported
    assert not imported & {"torch", "numpy", "diffusers"}


def test_a_sample_can_be_made_again_from_its_record(models, generate, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a red cat"}\n\n{"prompt": "two birds"}\n{"prompt": "x"}\n')
    options = ("--model", models / "t2i", "--seed", 5)
    listed = (*options, "--prompts", prompts, "--limit", 2, "--samples", 2)
    assert generate(*listed, "--batch-size", 3, "--out", tmp_path / "a") == 0
    files = sorted(path.name for path in (tmp_path / "a").glob("*.png"))
    assert files == [f"{i:05d}.png" for i in range(4)]
    made = record(tmp_path / "a" / "00003.json")
    assert (made["prompt"], made["seed"]) == ("two birds", 8)
    assert made["settings"]["num_inference_steps"] == 2
    assert (made["device"], made["dtype"], made["torch"]) == ("cpu", "float32", torch.__version__)
    assert made["diffnext"] and "fps" not in made
    again = ("--model", made["model"], "--prompt", made["prompt"], "--seed", made["seed"])
    assert generate(*again, "--out", tmp_path / "b") == 0
    found, wanted = (pixels(tmp_path / n) for n in ("a/00003.png", "b/00000.png"))
    assert abs(found - wanted).max() <= 1  # sums of a batch in another order
    assert abs(found - pixels(tmp_path / "a" / "00002.png")).max() > 1


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_videos(models, generate, tmp_path, suffix):
    options = ("--prompt", "a cat", "--num-frames", 9, "--format", suffix, "--fps", 8)
    assert generate("--model", models / "t2v", *options, "--out", tmp_path) == 0
    with av.open(str(tmp_path / f"00000.{suffix}")) as video:
        assert len(list(video.decode(video=0))) == 9
    made = record(tmp_path / "00000.json")
    assert (made["settings"]["max_latent_length"], made["fps"]) == (3, 8)


def test_a_video_model_makes_videos_of_its_own_length_from_a_picture(models, generate, tmp_path):
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "first.png")
    options = ("--prompt", "a cat", "--image", tmp_path / "first.png")
    assert generate("--model", models / "t2v", *options, "--out", tmp_path / "out") == 0
    with av.open(str(tmp_path / "out" / "00000.mp4")) as video:
        assert len(list(video.decode(video=0))) == 5


def test_one_sample_goes_to_a_file_by_name(models, generate, tmp_path, capsys):
    out = tmp_path / "new" / "cat.gif"
    assert generate("--model", models / "t2v", "--prompt", "a", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert sorted(path.name for path in out.parent.iterdir()) == ["cat.gif", "cat.json"]
    assert record(out.with_suffix(".json"))["prompt"] == "a"


def test_classes(models, generate, tmp_path):
    assert generate("--model", models / "c2i", "--label", 3, 7, "--out", tmp_path) == 0
    assert record(tmp_path / "00001.json")["prompt"] == 7


def test_the_newest_snapshot_of_a_run(models, generate, tmp_path):
    run = tmp_path / "run"
    for step, fill in ((9, 0.0), (10, 0.5)):
        net = tiny.t2i().transformer
        with torch.no_grad():
            net.image_decoder.head.bias.fill_(fill)
        net.save_pretrained(run / "checkpoints" / f"tiny_iter_{step}" / "transformer")
    (run / "config.yaml").write_text(f"MODEL:\n  WEIGHTS: {models / 't2i'}\n")
    newest = run / "checkpoints" / "tiny_iter_10"
    model = ("--model", models / "t2i", "--prompt", "a cat")
    network = newest / "transformer"
    assert generate(*model, "--snapshot", network, "--out", tmp_path / "a") == 0
    assert record(tmp_path / "a" / "00000.json")["snapshot"] == str(newest)
    for number, place in enumerate((run / "checkpoints", run)):
        out = tmp_path / f"b{number}"
        assert generate(*model, "--snapshot", place, "--out", out) == 0
        assert record(out / "00000.json")["snapshot"] == str(newest)
        assert np.array_equal(pixels(out / "00000.png"), pixels(tmp_path / "a" / "00000.png"))
    assert generate("--model", newest, "--prompt", "a cat", "--out", tmp_path / "c") == 0
    assert record(tmp_path / "c" / "00000.json")["model"] == str(models / "t2i")
    assert generate(*model, "--out", tmp_path / "d") == 0
    assert not np.array_equal(
        pixels(tmp_path / "d" / "00000.png"), pixels(tmp_path / "a/00000.png")
    )


def test_a_run_that_took_a_component_from_elsewhere(models, generate, tmp_path, monkeypatch):
    """From another directory than the run's, and with paths relative to that."""
    place, run = tmp_path / "place", tmp_path / "place" / "runs" / "one"
    shutil.copytree(models / "t2i", place / "base")
    torch.manual_seed(5)
    other = type(tiny.t2i().vae)(**tiny.PICTURE_VAE)
    other.save_pretrained(place / "other")
    net = tiny.t2i().transformer
    net.save_pretrained(run / "checkpoints" / "tiny_iter_9" / "transformer")
    monkeypatch.chdir(place)
    about = "".join(f"# {key}: {value}\n" for key, value in describe().items())
    config = {
        "MODEL": {"WEIGHTS": "base"},
        "PIPELINE": {"MODULES": {"vae": "other", "text_encoder": "", "transformer": "gone"}},
    }
    (run / "config.yaml").write_text(about + yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    assert generate("--model", "place/runs/one", "--prompt", "a cat", "--out", "a") == 0
    assert record(tmp_path / "a" / "00000.json")["modules"] == {"vae": str(place / "other")}
    shutil.rmtree(place / "base" / "vae")
    shutil.copytree(place / "other", place / "base" / "vae")
    assert generate("--model", "place/base", "--prompt", "a cat", "--out", "b") == 0
    assert np.array_equal(pixels(tmp_path / "a/00000.png"), pixels(tmp_path / "b/00000.png"))


def test_an_accelerator_that_is_not_there_is_not_taken(models, monkeypatch):
    """PyTorch built for CUDA on a machine without GPU."""

    def built_for(check_available=False):
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", built_for)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    pipe = sources.load(sources.locate(str(models / "t2i"), None))
    assert pipe.device == torch.device("cpu") and pipe.transformer.dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        ("t2i", ["--label", 3], "NOVAPipeline takes a text: use --prompt"),
        ("c2i", ["--prompt", "a"], "NOVAC2IPipeline takes a class: use --label"),
        ("t2i", ["--prompt", "a", "--format", "mp4"], "pictures are made; ('png',)"),
        ("t2i", ["--prompt", "a", "--out", "a.jpg"], "format is jpg, but pictures are made"),
        ("t2i", ["--prompt", "a", "b", "--out", "a.png"], "a.png is one file, and 2 are made"),
        ("t2v", ["--prompt", "a", "--out", "a.mp4", "--format", "gif"], "leave one of them out"),
        ("t2v", ["--prompt", "a", "--num-frames", 4], "--num-frames is 4; 4 k + 1"),
        ("none", ["--prompt", "a"], "holds no model_index.json"),
        ("t2i", ["--prompt", "a", "--snapshot", "nowhere"], "nowhere holds no"),
        ("t2i", ["--prompts", "nowhere.txt"], "nowhere.txt"),
        ("t2i", ["--prompt", "a", "--device", "cuda:77"], "device 'cuda:77' cannot be used: "),
        (
            "t2v",
            ["--prompt", "a", "--image", "a.png", "--num-frames", 1],
            "a.png is the first frame",
        ),
        (
            "c2i",
            ["--label", 3, "--negative-prompt", "a"],
            "negative_prompt is 'a'; a model of classes",
        ),
        (UNTRAINED, ["--prompt", "a"], "transformer holds no weights: the model is not trained"),
    ],
)
def test_errors_are_one_line(models, generate, tmp_path, capsys, model, arguments, said):
    assert generate("--out", tmp_path, "--model", models / model, *arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("--limit", "0", "1 or more"),
        ("--fps", "nan", "more than 0"),
        ("--flow-shift", "0.0", "more than 0"),
        ("--guidance-scale", "inf", "a finite number"),
        ("--seed", "-1", "0 to 2"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(generate, capsys, option, value, wanted):
    with pytest.raises(SystemExit) as caught:
        generate("--model", "m", "--prompt", "a", option, value)
    assert caught.value.code == 2
    assert f"{option} is {value}, wanted {wanted}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "line"), [("a.txt", "a\u2028b"), ("a.jsonl", '{"prompt": "a\u2028b"}')]
)
def test_a_prompt_is_a_line_of_the_file(tmp_path, name, line):
    path = tmp_path / name
    path.write_bytes(f"{line}\r\n\r\n{line}".encode())
    assert sampling.read_prompts(path) == ["a\u2028b"] * 2


def test_an_interrupt_is_told_in_a_line(generate, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "locate", interrupted)
    assert generate("--model", "m", "--prompt", "a") == 130
    assert capsys.readouterr().err == "interrupted; what is finished stays\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"prompt": "a"}\n{"text": "b"}\n', "line 2 is .* is wanted"),
        (b'{"prompt": "a"}\n\n{"prompt"\n', "line 3 is not JSON"),
        (b"\xff\xfea", "is not UTF-8 text"),
        (b'["a", "b"]', "line 1 is .* is wanted"),
    ],
)
@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.json"])
def test_a_line_that_is_no_prompt_is_named(tmp_path, content, said, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} {said}"):
        sampling.read_prompts(path)
