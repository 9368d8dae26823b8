# SPDX-License-Identifier: Apache-2.0
"""Every command and snippet of the inference guide runs, at a tiny size."""

import inspect
import re
from pathlib import Path

import numpy as np
import PIL.Image

from diffnext.cli.generate_args import parse_args
from diffnext.pipelines import NOVAC2IPipeline, NOVAPipeline
from tests.docs.guides import ROOT, Guide, prepare, run_script, words
from tests.pipelines import tiny

PATH = ROOT / "docs" / "inference.md"
RULES = [
    (r'"cuda"', '"cpu"'),
    (r"enable_model_cpu_offload\(\)", 'enable_model_cpu_offload(device="cpu")'),
    (r"torch\.float16", "torch.float32"),
    (r"max_latent_length=9", "max_latent_length=2"),
    (r"--num-frames 33", "--num-frames 5"),
    (r"scripts/generate\.py", "scripts/generate.py --steps 4 --diffusion-steps 2"),
]


def command(line: str) -> None:
    run_script(words(line))


def test_commands_and_snippets(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)
    models = {
        "t2i": "nova-d48w1024-sdxl1024",
        "t2v": "nova-d48w1024-osp480",
        "c2i": "nova-c2i",
    }
    for kind, name in models.items():
        getattr(tiny, kind)().save_pretrained(tmp_path / name)
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    for kind in ("checkpoints", "ema_checkpoints"):
        run = tmp_path / "runs/t2i" / kind / "nova_d48w1024_1024px_iter_100/transformer"
        tiny.t2i().transformer.save_pretrained(run)
    config = f"MODEL:\n  WEIGHTS: {tmp_path / models['t2i']}\n"
    (tmp_path / "runs/t2i/config.yaml").write_text(config)
    guide = Guide(PATH, [(r"/path/to", "."), *RULES], command)
    guide.run()

    counts = {
        "pictures": 8,
        "videos": 2,
        "from_picture": 1,
        "classes": 2,
        "newest": 1,
        "average": 1,
    }
    for name, count in counts.items():
        assert len(list(Path("samples", name).glob("*.json"))) == count, name
    assert Path("waves.mp4").is_file() and Path("continued.mp4").is_file()
    assert np.array_equal(guide.names["again"], np.asarray(PIL.Image.open("cat.png")))
    assert len(guide.names["frames"]) == 5 and len(guide.names["images"]) == 2
    NOVAPipeline.from_pretrained("my_model")


def test_every_setting_is_in_the_tables_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", PATH.read_text(), flags=re.MULTILINE)
    python = inspect.signature(NOVAPipeline.__call__).parameters
    options = vars(parse_args(["--model", "m", "--prompt", "p"], ""))
    renamed = {"steps": "num_inference_steps", "diffusion_steps": "num_diffusion_steps"}
    for name, flags, default in rows:
        assert name in python
        shown = default.split(";")[0]
        value = python[name].default
        assert shown == ("none" if value is None else f"{value:g}") or name == "flow_shift", name
        for flag in re.findall(r"--([\w-]+)", flags):
            key = flag.replace("-", "_")
            assert key in options, flag
            if renamed.get(key, key) == name and "model" not in default:
                assert options[key] == value, flag
    elsewhere = {
        "self", "prompt", "prompt_embeds", "output_type", "vae_batch_size", "latents",
        "disable_progress_bar",
    }  # fmt: skip
    assert {name for name, *_ in rows} == set(python) - elsewhere
    classes = set(inspect.signature(NOVAC2IPipeline.__call__).parameters)
    assert classes <= set(python)
