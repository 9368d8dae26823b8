# SPDX-License-Identifier: Apache-2.0
"""A run that is evaluated and sampled is the run that it would be without."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing import event_accumulator

from diffnext.cli.generate import main as generate
from diffnext.pipelines import NOVAPipeline
from diffnext.utils.metrics import read_rows
from tests.pipelines import tiny
from tests.runs.test_overfit import train
from tests.runs.tiny_nova import make_cache, make_config

WEIGHTS = "checkpoints/tiny_iter_6/transformer/diffusion_pytorch_model.safetensors"
FEW = {"num_inference_steps": 2, "num_diffusion_steps": 2, "guidance_scale": 3.0}
WATCHED = {"EVAL.EVERY": 2, "SAMPLE.EVERY": 3, "SAMPLE.CONFIG": FEW, "SAMPLE.PROMPTS": ["a", "b"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    tiny.t2i().save_pretrained(folder / "model")
    for name, count in (("cache", 8), ("held", 5)):
        make_cache(folder / name, "t2i", count=count, channels=4, size=4, width=64)
    watched = WATCHED | {"EVAL.DATASET": str(folder / "held")}
    shown = ("--tensorboard", "--wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        for name, options, flags in (("plain", {}, ()), ("watched", watched, shown)):
            config = make_config(folder / f"{name}.yml", "t2i", **options)
            assert train("--cfg", str(config), "--exp-dir", str(folder / name), *flags) == 0
    return folder


def test_losses_and_weights_are_the_same_bit_for_bit(runs):
    plain, watched = (
        [
            [row[key] for key in ("step", "loss", "grad_norm", "moved") if key in row]
            for row in read_rows(runs / name / "logs/metrics.jsonl")
        ]
        for name in ("plain", "watched")
    )
    assert plain == watched and len(plain) == 6
    for kind in ("", "ema_"):
        one, two = (load_file(runs / name / f"{kind}{WEIGHTS}") for name in ("plain", "watched"))
        assert all(torch.equal(one[name], two[name]) for name in one | two)


def test_held_out_loss_falls_and_the_best_step_is_named(runs):
    rows = read_rows(runs / "watched/logs/eval.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert {"eval/loss_t100", "eval_ema/loss_m85", "eval/loss_t900_m100"} < set(rows[0])
    assert rows[-1]["eval/loss"] < rows[0]["eval/loss"]
    best = json.loads((runs / "watched/best.json").read_text())
    assert best["step"] == 6 and best["value"] == rows[-1]["eval_ema/loss"]


def test_curves_and_samples_are_shown(runs):
    logs = runs / "watched/logs"
    events = event_accumulator.EventAccumulator(str(logs / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["samples/00000 a", "samples/00001 b"]
    assert {"loss", "eval/loss_t100", "eval_ema/loss"} < set(events.Tags()["scalars"])
    (offline,) = logs.glob("wandb/offline-run-*")
    assert offline.name.endswith((logs / "wandb_id").read_text())
    assert len(list(offline.glob("files/media/images/samples/*.png"))) == 6


def test_samples_are_what_the_command_draws_from_the_snapshot(runs):
    folders = sorted(path.name for path in (runs / "watched/samples").iterdir())
    assert folders == ["step_0", "step_3", "step_6"]
    snapshot = runs / "watched/ema_checkpoints/tiny_iter_6"
    options = ("--steps", 2, "--diffusion-steps", 2, "--guidance-scale", 3, "--seed", 3)
    where = ("--model", runs / "model", "--snapshot", snapshot, "--out", runs / "again")
    command = (*where, "--prompt", "a", "b", *options, "--device", "cpu")
    assert generate(list(map(str, command))) == 0
    for name in ("00000", "00001"):
        during = runs / "watched/samples/step_6" / name
        pixels = [np.asarray(Image.open(f"{p}.png")) for p in (during, runs / "again" / name)]
        np.testing.assert_array_equal(*pixels)
        assert (
            json.loads(during.with_suffix(".json").read_text())["settings"]["guidance_scale"] == 3
        )


def test_processes_share_the_prompts_and_draw_the_same_pictures(runs, server, tmp_path):
    log, out = tmp_path / "log", tmp_path / "run"
    two = ["NUM_GPUS", 2, "TRAIN.BATCH_SIZE", 2, "PARALLEL.BACKEND", "fsdp", "SOLVER.MAX_STEPS", 1]
    prompts = ["SAMPLE.PROMPTS", "['a', 'b', 'c']", "EVAL.EVERY", 0]
    command = ["--cfg", runs / "watched.yml", "--exp-dir", out, "--tensorboard"]
    assert server.train(*command, *two, *prompts, log=log, world=2) == [0, 0], log.read_text()
    for name in ("00000", "00001"):
        files = [run / "samples/step_0" / f"{name}.png" for run in (runs / "watched", out)]
        one, both = (np.asarray(Image.open(file)).astype(int) for file in files)
        assert abs(one - both).max() <= 1  # those beside a sample move its last digits
    assert (out / "samples/step_0/00002.png").exists()
    assert log.read_text().count("3 samples in ") == 2  # of which each process makes a part
    events = event_accumulator.EventAccumulator(str(out / "logs/tensorboard")).Reload()
    assert events.Tags()["images"] == ["samples/00000 a", "samples/00001 b", "samples/00002 c"]


def test_a_run_without_its_autoencoder_trains_on(runs, tmp_path, capsys):
    model = tmp_path / "model"
    model.mkdir()
    for path in (runs / "model").iterdir():
        (model / path.name).symlink_to(path)
    (model / "vae").unlink()
    (model / "vae").mkdir()  # its config, which training reads, and no weights
    (model / "vae/config.json").write_text((runs / "model/vae/config.json").read_text())
    data = {"TRAIN.DATASET": str(runs / "cache"), "SOLVER.MAX_STEPS": 2}
    config = make_config(tmp_path / "run.yml", "t2i", **(WATCHED | {"EVAL.EVERY": 0} | data))
    assert train("--cfg", str(config), "--exp-dir", str(tmp_path / "run")) == 0
    assert "no samples of step 2, training goes on" in capsys.readouterr().out


def test_the_plan_tells_what_sampling_takes(runs, capsys, monkeypatch):
    pipe = NOVAPipeline.from_pretrained(runs / "model")
    parts = (pipe.transformer, pipe.vae, pipe.text_encoder)
    mib = 4 * sum(param.numel() for part in parts for param in part.parameters()) / 2**20
    command = ("--cfg", str(runs / "watched.yml"), "--dry-run")
    assert train(*command) == 0
    out = capsys.readouterr().out
    assert f"samples    of 2 prompts every 3 steps, with {mib:,.1f} MiB of weights" in out
    assert "samples may not fit" not in out
    words = re.search(r"^memory +(.*), in all", out, flags=re.MULTILINE)[1]
    parts = {word: float(size) for word, size in re.findall(r"(\w+) ([\d.]+) MiB", words)}
    room = sum(parts.values()) + (mib - parts["activations"]) / 2  # for a step, not for samples
    monkeypatch.setattr("diffnext.engine.memory.capacity_bytes", lambda: room * 2**20)
    assert train(*command) == 0
    assert "WARNING    samples may not fit, " in capsys.readouterr().out


def test_held_out_data_are_looked_at_before_a_run(runs, tmp_path, capsys):
    config = make_config(
        tmp_path / "run.yml",
        "t2i",
        **{"MODEL.WEIGHTS": str(runs / "model"), "TRAIN.DATASET": str(runs / "cache")},
    )

    def dry_run(dataset):
        command = ("--cfg", str(config), "--dry-run", "EVAL.EVERY", "2", "EVAL.DATASET", dataset)
        return train(*command), capsys.readouterr()

    code, said = dry_run(str(runs / "held"))
    assert code == 0
    assert f"held out   5 records of {runs / 'held'}, evaluated every 2 steps" in said.out
    assert "trained on too" not in said.out
    code, said = dry_run(str(runs / "cache"))
    assert code == 0 and f"WARNING    {runs / 'cache'} is trained on too" in said.out
    code, said = dry_run("")
    assert code == 2 and "EVAL.EVERY is 2 and EVAL.DATASET is empty" in said.err
    other = make_cache(tmp_path / "other", "t2i", channels=2, size=4, width=64)
    code, said = dry_run(str(other))
    assert code == 2 and str(other) in said.err
