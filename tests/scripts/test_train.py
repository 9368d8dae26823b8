# SPDX-License-Identifier: Apache-2.0
"""The training command: what it answers, what it refuses, what it leaves behind."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from diffnext.config import get_cfg
from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from diffnext.utils.metrics import read_rows
from tests.cpu import fastest
from tests.runs.test_overfit import SCRIPT, train
from tests.runs.tiny_nova import make_cache, make_run

ROOT = SCRIPT.parents[1]
ENV = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def command(*arguments: str) -> subprocess.CompletedProcess:
    words = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(words, env=ENV, capture_output=True, text=True)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run / "logs/metrics.jsonl")]


def test_help_is_quick():
    text, seconds = fastest([sys.executable, str(SCRIPT), "--help"], ENV)
    assert "--deepspeed" in text and seconds < 1.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of six steps with a checkpoint at three, and its config."""
    folder = tmp_path_factory.mktemp("finished")
    config = make_run(folder, "t2i")
    assert train("--cfg", str(config), "--exp-dir", str(folder / "run"), "--tensorboard") == 0
    return config, folder / "run"


def test_what_a_run_leaves_behind(finished):
    _, run = finished
    for kind in ("checkpoints", "ema_checkpoints"):
        assert sorted(p.name for p in (run / kind).iterdir()) == ["tiny_iter_3", "tiny_iter_6"]
        NOVATransformer3DModel.from_pretrained(run / kind / "tiny_iter_6/transformer")
    rows = read_rows(run / "logs/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert list((run / "logs/tensorboard").iterdir())
    assert "step 6/6" in (run / "logs/train.log").read_text()
    cfg = get_cfg()
    cfg.merge_from_file(run / "config.yaml")
    assert cfg.SOLVER.MAX_STEPS == 6
    assert "# torch: " in (run / "config.yaml").read_text()
    about = json.loads((run / "checkpoints/tiny_iter_3/run.json").read_text())["about"]
    assert yaml.safe_load(about["config"])["SOLVER"]["MAX_STEPS"] == 6


def test_a_finished_run_is_left_alone(finished, capsys):
    config, run = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for flags in ((), ("--dry-run",)):
        assert train("--cfg", str(config), "--exp-dir", str(run), *flags) == 0
        said = capsys.readouterr().out
        assert "already finished" in said and "is of step 6, and SOLVER.MAX_STEPS is 6" in said
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert after == before


def test_the_same_command_goes_on_bit_for_bit(finished, tmp_path):
    config, run = finished
    arguments = ["--cfg", str(config), "--exp-dir", str(tmp_path)]
    resume = ["TRAIN.RESUME", str(run / "checkpoints/tiny_iter_3")]
    assert train(*arguments, *resume) == 0
    assert losses(tmp_path) == losses(run)[3:]
    for kind in ("checkpoints", "ema_checkpoints"):
        name = f"{kind}/tiny_iter_6/transformer/diffusion_pytorch_model.safetensors"
        one, two = load_file(run / name), load_file(tmp_path / name)
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SOLVER.BASE_LRR", "1"], "BASE_LR"),
        (
            ["TRAIN.DATASET", "nowhere"],
            "TRAIN.DATASET 'nowhere': nowhere is not a folder of records",
        ),
        (["SOLVER.BASE_LR", ".inf"], "SOLVER.BASE_LR is inf; wanted is at least 0, finite"),
        (["TRAIN.DATASET", ""], "TRAIN.DATASET is empty"),
        (["MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty"),
        (["MODEL.TYPE", "unet"], "MODEL.TYPE is 'unet'; NOVATrainT2IPipeline trains 'transformer'"),
        (["PIPELINE.TYPE", "nova_train_t2j"], "did you mean 'nova_train_t2"),
        (["PIPELINE.TYPE", "nova_train_c2i"], "no field 'label'"),
        (["METHOD.TYPE", "finetun"], "did you mean 'finetune'"),
        (["PARALLEL.BACKEND", "ddpp"], "did you mean 'ddp'"),
        (["PARALLEL.BACKEND", "deepspeed"], "there is no --deepspeed JSON"),
        (["NUM_GPUS", "2", "PARALLEL.BACKEND", "single"], "'single' and there are 2 processes"),
        (["SOLVER.OPTIMIZER", "adamx"], "SOLVER.OPTIMIZER is 'adamx'"),
        (
            ["SOLVER.OPTIMIZER", "Muon", "PARALLEL.BACKEND", "fsdp"],
            "'Muon', which needs whole weights, and fsdp splits them",
        ),
        (["SOLVER.LR_POLICY", "cos"], "SOLVER.LR_POLICY is 'cos'"),
        (["TRAIN.LOADER", "other"], "there is 'vae_train'"),
        (["MODEL.PRECISION", "bf16"], "MODEL.PRECISION is 'bf16'; there are ['bfloat16', "),
        (["TRAIN.DEVICE_EMA", "gpuu"], "TRAIN.DEVICE_EMA is 'gpuu'; there are ['cpu', "),
        (["TRAIN.MODEL_EMA", "1.5"], "TRAIN.MODEL_EMA is 1.5; a decay lies between 0 and 1"),
        (["METHOD.CONFIG", "{nope: 1}"], "METHOD.CONFIG has ['nope']; Finetune takes []"),
        (["TRAIN.LOADER_CONFIG", "{prefetsh: 1}"], "TRAIN.LOADER_CONFIG has ['prefetsh']"),
        (["PARALLEL.CONFIG", "{replicat: 2}"], "PARALLEL.CONFIG has ['replicat']; Backend takes"),
        (
            "NUM_GPUS 4 PARALLEL.BACKEND fsdp PARALLEL.CONFIG.replicate 3".split(),
            "replicate is 3; it must divide the number of processes, 4",
        ),
        (["RNG_SEED", str(2**63)], "RNG_SEED is 9223372036854775808; wanted is from -"),
        (["--deepspeed", "nowhere.json"], "--deepspeed nowhere.json: there is no such file"),
        (["TRAIN.BATCH_SIZE", "0"], "TRAIN.BATCH_SIZE is 0; wanted is at least 1"),
        (["TRAIN.TEXT_DROPOUT", "1.5"], "TRAIN.TEXT_DROPOUT is 1.5; wanted is from 0 to 1"),
        (["SOLVER.DECAY_POWER", "-2"], "SOLVER.DECAY_POWER is -2.0; wanted is at least 0"),
        (["SOLVER.ACCUM_STEPS", "0"], "SOLVER.ACCUM_STEPS is 0; wanted is at least 1"),
        (["SOLVER.EMA_EVERY", "0"], "SOLVER.EMA_EVERY is 0; wanted is at least 1"),
        (["SOLVER.SNAPSHOT_EVERY", "0"], "SOLVER.SNAPSHOT_EVERY is 0; wanted is at least 1"),
        (["SOLVER.OPTIMIZER", "LBFGS"], "SOLVER.OPTIMIZER is 'LBFGS', which cannot take a step"),
        (["SOLVER.OPTIMIZER", "SparseAdam"], "'SparseAdam', which cannot take a step"),
        (["SOLVER.ADAM_BETA2", "1.0"], "as it is set: Invalid beta parameter"),
        (["TRAIN.RESUME", "/nope"], "TRAIN.RESUME is '/nope': no complete checkpoint is in it"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(finished, capsys, arguments, message):
    config, _ = finished
    assert train("--cfg", str(config), "--dry-run", *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"channels": 3}, "moments of 3 latent channels, the network takes 2"),
        ({"size": 6}, "latents of 6 x 6, the network takes 8 x 8"),
        ({"width": 12}, "embeddings of width 12, the network takes 16"),
    ],
)
def test_a_cache_of_another_model_is_refused(finished, tmp_path, capfd, cache, message):
    config, _ = finished
    folder = make_cache(tmp_path / "other", "t2i", **cache)
    arguments = ["--cfg", str(config), "--exp-dir", str(tmp_path / "run")]
    assert train(*arguments, "TRAIN.DATASET", str(folder)) == 2
    error = capfd.readouterr().err
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(finished, tmp_path, capsys, monkeypatch):
    config, _ = finished
    monkeypatch.chdir(tmp_path)
    assert train("--cfg", str(config), "--dry-run", "NUM_GPUS", "4") == 0
    out = capsys.readouterr().out
    assert "8 records of [4, 8, 8]" in out
    assert "step       16 samples: 4 a micro-batch, 1 micro-batches, 4 processes" in out
    assert "backend ddp; 6 steps" in out
    assert "learn; random weights\n" in out
    assert "checkpoint at step 3 for the first time" in out
    assert "MAX_STEPS: 6" in out
    assert "start      step 0" in out
    assert "too few for" not in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_where_the_run_begins_and_what_it_lacks(finished, capsys, monkeypatch):
    config, run = finished
    monkeypatch.setattr("diffnext.engine.memory.capacity_bytes", lambda: 2**10)
    taken = []
    monkeypatch.setattr("diffnext.distributed.env.take_device", taken.append)
    more = ["SOLVER.MAX_STEPS", "7", "GPU_ID", "3"]
    assert train("--cfg", str(config), "--exp-dir", str(run), "--dry-run", *more) == 0
    assert taken == [3]
    out = capsys.readouterr().out
    assert f"start      {run / 'checkpoints/tiny_iter_6'}" in out
    assert f"learn; weights of {run / 'checkpoints/tiny_iter_6'}\n" in out
    assert "checkpoint at step 7 for the first time" in out
    assert re.search(r"WARNING .* has 0\.0 MiB, too few for [0-9.]+ MiB", out)


@pytest.mark.parametrize("where", [["--exp-dir", "deep/down/run"], []])
def test_a_wrong_option_stops_a_real_run_before_it_leaves_anything(
    finished, tmp_path, capfd, monkeypatch, where
):
    config, _ = finished
    monkeypatch.chdir(tmp_path)
    assert train("--cfg", str(config), *where, "TRAIN.LOADER_CONFIG", "{prefetsh: 1}") == 2
    assert "error: TRAIN.LOADER_CONFIG has ['prefetsh']" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_broken_weights_are_refused_by_name(finished, tmp_path, capsys):
    config, run = finished
    weights = run / "checkpoints/tiny_iter_6/transformer"
    other = tmp_path / "transformer"
    other.mkdir()
    settings = json.loads((weights / "config.json").read_text())
    settings["arch"][2] = "mlp_d1w64"
    (other / "config.json").write_text(json.dumps(settings))
    name = "diffusion_pytorch_model.safetensors"
    (other / name).symlink_to(weights / name)
    modules = f"{{transformer: {other}}}"
    assert train("--cfg", str(config), "--dry-run", "PIPELINE.MODULES", modules) == 2
    assert "image_decoder.blocks.1" in capsys.readouterr().err


def test_weights_are_loaded_where_there_are_some(finished, tmp_path):
    config, run = finished
    weights = run / "checkpoints/tiny_iter_6/transformer"
    modules = f"{{transformer: {weights}}}"
    arguments = ["--cfg", str(config), "--exp-dir", str(tmp_path), "SOLVER.MAX_STEPS", "1"]
    assert train(*arguments, "PIPELINE.MODULES", modules, "SOLVER.BASE_LR", "0.0") == 0
    assert f"learn; weights of {weights}\n" in (tmp_path / "logs/train.log").read_text()
    name = "diffusion_pytorch_model.safetensors"
    one, two = (
        load_file(weights / name),
        load_file(tmp_path / f"checkpoints/tiny_iter_1/transformer/{name}"),
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_videos_start_from_a_network_of_pictures(finished, tmp_path, capsys):
    weights = finished[1] / "checkpoints/tiny_iter_6/transformer"
    config = make_run(tmp_path, "t2v", **{"MODEL.START_FROM": str(finished[1])})
    arguments = ["--cfg", str(config), "--exp-dir", str(tmp_path / "run"), "SOLVER.MAX_STEPS", "1"]
    assert train(*arguments, "--dry-run") == 0
    assert f" tensors of {weights}, 11 random" in capsys.readouterr().out
    assert train(*arguments, "SOLVER.BASE_LR", "0.0") == 0
    name = "diffusion_pytorch_model.safetensors"
    old = load_file(weights / name)
    new = load_file(tmp_path / f"run/checkpoints/tiny_iter_1/transformer/{name}")
    other = {key for key in new if key not in old or not torch.equal(old[key], new[key])}
    assert {key.split(".")[-3] for key in other} == {"mixer", "flow_proj", "fps_proj"}
    gone = ["MODEL.START_FROM", str(tmp_path / "gone")]  # all weights come from the checkpoint now
    assert train(*arguments, "SOLVER.MAX_STEPS", "2", *gone) == 0
    assert (tmp_path / "run/checkpoints/tiny_iter_2").is_dir()


def test_what_a_network_cannot_start_from_is_refused(finished, tmp_path, capsys):
    config, run = finished

    def refusal(*arguments: str) -> str:
        assert train("--cfg", str(config), "--dry-run", *arguments) == 2
        return capsys.readouterr().err

    nothing = refusal("MODEL.START_FROM", str(tmp_path))
    assert f"error: MODEL.START_FROM: {tmp_path} holds no model_index.json" in nothing
    modules = f"{{transformer: {run}/checkpoints/tiny_iter_6/transformer}}"
    twice = refusal("MODEL.START_FROM", str(run), "PIPELINE.MODULES", modules)
    assert "describe a new network by MODEL.CONFIG" in twice
    save_file({"conv_in.weight": torch.zeros(2)}, tmp_path / "unet.safetensors")
    assert "name a network of the same kind" in refusal("MODEL.START_FROM", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "deepspeed"])
def test_two_processes_train_like_one(finished, tmp_path, backend):
    config, run = finished
    arguments = ["--cfg", str(config), "--exp-dir", str(tmp_path / "run")]
    if backend == "deepspeed":
        (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 2}}')
        arguments += ["--deepspeed", str(tmp_path / "zero.json")]
    done = command(*arguments, "NUM_GPUS", "2", "TRAIN.BATCH_SIZE", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "run") == pytest.approx(losses(run), rel=1e-4)
