# SPDX-License-Identifier: Apache-2.0
"""The training command before and after the training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffnext.cli import main as diffnext
from diffnext.cli.train import main, show_gpu
from diffnext.cli.train_args import parse_args
from diffnext.config import get_cfg
from diffnext.engine.backends.deepspeed import load_deepspeed
from diffnext.engine.build import make_plan
from diffnext.engine.launchers import deepspeed as by_deepspeed
from diffnext.engine.launchers import torchrun as by_torchrun

ROOT = Path(__file__).parents[2]
ZERO = ["--deepspeed", str(ROOT / "configs/deepspeed/zero2_bf16.json")]
BUILD = ["--input", "a", "--vae", "v", "--resolution", "64"]


@pytest.mark.parametrize(
    ("where", "module"),
    [
        ([], "deepspeed.launcher.runner"),
        (["--distributed"], "diffnext.engine.launchers.agent"),
        (["--nnodes", "2", "--rdzv-endpoint", "node1:1"], "diffnext.engine.launchers.agent"),
    ],
)
def test_deepspeed_is_started_as_the_options_say(tmp_path, monkeypatch, where, module):
    started = []
    starts = ((by_deepspeed, "run_hosts"), (by_torchrun, "run_group"), (by_torchrun, "run_peers"))
    for launcher, name in starts:
        monkeypatch.setattr(launcher, name, lambda command, *more: started.append(command) or 0)
    monkeypatch.setattr("diffnext.cli.train.look", lambda args, cfg: None)  # there is no model
    config = tmp_path / "run.yml"
    config.write_text("NUM_GPUS: 2")
    assert main(["--cfg", str(config), *ZERO, *where]) == 0
    assert started[0][1:3] == ["-m", module]
    assert all(any(option.startswith(w) for option in started[0]) for w in where[:1])


@pytest.mark.parametrize("wrong", ["nothing.yml", ".", "run.yml/x.yml"])
def test_a_config_that_cannot_be_read_is_named_in_a_line(tmp_path, monkeypatch, capsys, wrong):
    monkeypatch.chdir(tmp_path)
    Path("run.yml").touch()
    assert main(["--cfg", wrong]) == 2
    found = capsys.readouterr().err
    assert found.startswith("error: ") and found.endswith(f"'{wrong}'\n") and found.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--cfg", "a.yml", "--exp-dir", "s3://bucket/run"],
        ["generate", "--model", "m", "--prompt", "red", "--out", "s3://bucket/run"],
        ["cache", "build", *BUILD, "--output", "s3://bucket/run"],
    ],
    ids=lambda command: command[0],
)
def test_an_output_behind_a_url_makes_no_folder_of_its_scheme(
    tmp_path, monkeypatch, capsys, command
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        diffnext(command)
    told = f"{command[-2]} s3://bucket/run is a URL; give a folder, and copy it there"
    assert caught.value.code == 2 and told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_outside_of_the_training_is_told_in_a_line(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffnext.cli.train.read_config", interrupted)
    assert main(["--cfg", "run.yml"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_options_may_follow_a_command_that_was_printed():
    args = parse_args(["--cfg", "a.yml", "A.B", "1", "--resume", "auto", "C", "-2"])
    assert (args.resume, args.opts) == ("auto", ["A.B", "1", "C", "-2"])


def test_a_hostfile_and_torchrun_do_not_go_together(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--cfg", "run.yml", *ZERO, "--host", "hosts", "--nnodes", "2"])
    assert "--host is for deepspeed's launcher" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "deepspeed"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_package_that_is_not_there_is_named_before_anything_is_made(
    tmp_path, monkeypatch, capsys, name, more
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    value = ["zero.json"] if name == "deepspeed" else []
    config = ROOT / "configs" / "demo" / "shapes_t2i.yml"
    assert main(["--cfg", str(config), f"--{name}", *value, *more]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: --{name} needs the package {name}, which is not installed")
    assert told.endswith(f": pip install diffnext[{name}]\n")
    assert list(tmp_path.iterdir()) == []


def test_launchers_refuse_in_one_line(tmp_path, capsys):
    config = tmp_path / "run.yml"
    config.write_text("NUM_GPUS: 2")
    assert main(["--cfg", str(config), *ZERO, "--host", "no_hosts"]) == 2
    assert capsys.readouterr().err == "error: --host no_hosts does not exist\n"


def test_what_is_said_at_the_end_needs_no_reader():
    code = "import sys; from diffnext.cli.train import tell; tell('on' * 99); sys.exit(0)"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=write)
    os.close(write)
    assert done.returncode == 0


def test_float16_that_deepspeed_does_not_have_is_refused_before_a_run(tmp_path, monkeypatch):
    accelerator = load_deepspeed().accelerator.get_accelerator()
    monkeypatch.setattr(type(accelerator), "is_fp16_supported", lambda self: False)
    (tmp_path / "zero1.json").write_text('{"zero_optimization": {"stage": 1}}')
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.PRECISION", "float16"])
    with pytest.raises(ValueError, match="'float16', which DeepSpeed does not have on"):
        make_plan(cfg, world=1, deepspeed=str(tmp_path / "zero1.json"))


def test_a_process_to_be_started_alone_will_see_its_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    show_gpu(0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"
    show_gpu(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
