# SPDX-License-Identifier: Apache-2.0
"""Who is refused, or has nothing to do, does not wait for the libraries of networks to be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffnext.cli import main
from diffnext.cli.train_args import parse_args, read_config
from diffnext.cli.train_plan import look
from diffnext.data.records import write_identity
from diffnext.models.autoencoders.loading import describe_vae
from tests.data.packed import png
from tests.runs.tiny_nova import make_cache, make_config, make_model

ROOT = Path(__file__).parents[2]
VAE = ROOT / "assets" / "nova_shapes"
WEIGHTS = "diffusion_pytorch_model.safetensors"
HEAVY = ("diffusers", "transformers", "torch._dynamo", "torch.distributed.tensor")
STARTS = ("diffnext.engine.launchers.group", "diffnext.engine.coordinator")  # of processes, folders
RUN = f"""
import json, sys
from diffnext.cli import main
from diffnext.cli.train_args import parse_args, read_config
from diffnext.cli.train_plan import look
codes = [[main(words), "torch" in sys.modules] for words in json.load(sys.stdin)]
print(json.dumps([codes, [name for name in {HEAVY + STARTS} if name in sys.modules]]))
"""
LIGHT, TORCH, REFUSED = (
    [0, False],
    [0, True],
    [2, True],
)  # exit code, whether torch is imported by then


def run(commands):
    """What becomes of commands in one new process, modules that it has imported, and what it says."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    given = json.dumps([[str(word) for word in words] for words in commands])
    process = [sys.executable, "-c", RUN]
    done = subprocess.run(process, input=given, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes, modules = json.loads(done.stdout.splitlines()[-1])
    return outcomes, modules, done


def test_a_cache_of_another_autoencoder_is_refused_at_once(tmp_path):
    """By one process and by what would start several; in a folder to go on in, too."""
    model, cache = make_model(tmp_path / "model", "t2i"), make_cache(tmp_path / "cache", "t2i")
    config, weights = (model / "vae" / name for name in ("config.json", WEIGHTS))
    stated = json.loads(config.read_text()) | {"block_out_channels": [64]}
    config.write_text(json.dumps(stated))
    weights.write_bytes(b"weights of the autoencoder")
    write_identity(cache, {"version": 2, "vae": describe_vae(str(model))})
    before = describe_vae(str(model))["weights_sha256"]
    weights.write_bytes(b"other weights")
    after = describe_vae(str(model))["weights_sha256"]
    train = ["train", "--cfg", make_config(tmp_path / "run.yml", "t2i")]
    more = ["--dry-run"], ["NUM_GPUS", "2"], ["--exp-dir", tmp_path / "run"], []
    outcomes, modules, done = run([*train, *options] for options in more)
    assert outcomes == [REFUSED] * len(more) and modules == []
    said = f"vae.weights_sha256: the cache has '{before}', the model '{after}'"
    assert done.stderr.count(said) == len(more)
    assert done.stderr.count(f"--vae {model}/vae --resolution 8x8\n") == len(more)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_may_have_lost_its_model_and_data(tmp_path):
    folder = tmp_path / "run" / "checkpoints" / "tiny_iter_6"
    folder.mkdir(parents=True)
    (folder / "complete.json").write_text('{"files": {}}')
    (folder / "run.json").write_text("{}")
    words = ["--cfg", make_config(tmp_path / "run.yml", "t2i"), "--exp-dir", tmp_path / "run"]
    args = parse_args([*map(str, words), "SOLVER.MAX_STEPS", "6"])
    assert look(args, read_config(args)) is None
    args.opts[-1] = "7"
    with pytest.raises(ValueError, match=r"MODEL.WEIGHTS is .*, and there is no such folder"):
        look(args, read_config(args))


@pytest.fixture
def build(tmp_path):
    """The command that has built a cache of one picture."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png(7))
    (tmp_path / "photos" / "a.txt").write_text("Grey.")
    command = ["cache", "build", "--input", tmp_path / "photos", "--output", tmp_path / "cache"]
    command += ["--vae", VAE, "--resolution", "64", "--device", "cpu", "--workers", "0"]
    assert main(list(map(str, command))) == 0
    return command


def test_commands_that_encode_nothing_start_at_once(build, tmp_path):
    cache = tmp_path / "cache"
    outcomes, modules, done = run(
        [
            ["cache", "info", cache],
            ["cache", "verify", cache],
            ["cache", "diff", cache, cache],
            ["cache", "merge", cache, cache, "--output", tmp_path / "both"],
            build,
            [*build, "--dry-run"],
            ["cache", "verify", cache, "--repair", "--vae", VAE],
            [*build, "--dtype", "bf16"],
            ["cache", "show", cache, "--vae", ROOT / "assets" / "nova_shapes_video"],
        ]
    )
    assert outcomes == [LIGHT] * 4 + [TORCH] * 3 + [REFUSED] * 2 and modules == [], done.stderr
    assert "0 written, 1 records in all" in done.stdout
    assert "the cache has 'float32', this build 'bfloat16'" in done.stderr
    assert "vae.class: the cache has 'AutoencoderKL', --vae 'AutoencoderKLOpenSora'" in done.stderr
