# SPDX-License-Identifier: Apache-2.0
"""Every command and snippet of the cache guide runs, at a smaller size."""

import csv
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import av
import numpy as np
import PIL.Image
import torch

from diffnext import cli
from diffnext.data.choices import CHOICES
from diffnext.data.datasets import open_datasets
from diffnext.data.journal import JOURNAL
from diffnext.data.ledger import LEDGER
from diffnext.data.records import open_reader
from diffnext.data.records.identity import IDENTITY
from diffnext.data.worklist import WORK
from diffnext.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffnext.models.autoencoders.autoencoder_kl_opensora import AutoencoderKLOpenSora
from tests.pipelines.tiny import TEXT

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "cache.md").read_text(encoding="utf-8")
TINY = {"block_out_channels": (4, 4, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
SIZES = {"480x768": "48x64", "480x768,240x384": "48x64,24x32", "1024": "64"}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


def prepare(folder):
    """The files that the guide speaks of."""
    torch.manual_seed(0)
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    AutoencoderKL(**TINY, **kinds).save_pretrained(folder / "nova-image" / "vae")
    AutoencoderKLOpenSora(**TINY).save_pretrained(folder / "nova-video" / "vae")
    text_model(folder / "nova-image")
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (66, 80, 90, 3), np.uint8)
    PIL.Image.fromarray(noise[0]).save(folder / "photos" / "a.jpg")
    (folder / "photos" / "a.txt").write_text("A picture of noise.")
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 90, 80, "yuv420p"
        for pixels in noise:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with open(folder / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "caption"], ["a.mp4", "A video of noise."]])
    (folder / "manifests").mkdir()
    row = {"path": "../photos/a.jpg", "caption": "A row."}
    (folder / "manifests" / "00000.jsonl").write_text(json.dumps(row))


def text_model(folder):
    """What a model folder holds to embed prompts."""
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(TEXT, folder / part)
    (folder / "transformer").mkdir()
    network = {"text_token_dim": 64, "text_token_len": 12}
    (folder / "transformer" / "config.json").write_text(json.dumps(network))
    index = {
        "text_encoder": ["diffnext.models.text_encoders.phi", "PhiEncoderModel"],
        "tokenizer": ["transformers", "CodeGenTokenizerFast"],
        "vae": ["diffnext.models.autoencoders.autoencoder_kl", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def run_tool(words):
    """Run `tools/name.py ARGUMENTS` in this process, which has loaded torch already."""
    path = ROOT / words[0]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(words[1:]) == 0, words


def test_commands_and_snippets(tmp_path, monkeypatch, capsys):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 11
    for command in commands:
        program, *words = shlex.split(command)
        words = [SIZES.get(word, word.replace("/path/to/", f"{tmp_path}/")) for word in words]
        if program == "diffnext":
            assert cli.main(words) == 0, command
        elif program == "torchrun":  # the first of its processes
            assert words.pop(0) == "--nproc-per-node"
            with monkeypatch.context() as patch:
                patch.setenv("WORLD_SIZE", words.pop(0))
                run_tool(words)
        else:
            assert program == "python"
            run_tool(words)
    assert open_reader("img_cache")[0]["shape"] == [8, 8, 8]
    assert open_reader("vid_cache")[0]["shape"] == [8, 9, 6, 8]
    assert open_reader("many_cache")[0] == open_reader("img_cache")[0]
    [part, whole], _ = open_datasets(["parts/00000", "img_cache"])
    assert part[0]["moments"] == whole[0]["moments"] and part[0]["caption"] == "A row."
    assert Path("sheet.png").is_file()
    assert open_reader("full_cache")[0]["words"] == ["A picture of noise.", ""]
    [joined], _ = open_datasets("img_cache", "img_prompts")
    assert joined[0]["caption"]["shape"] == open_reader("full_cache")[0]["caption"]["shape"]
    [snippet] = blocks("python")
    capsys.readouterr()
    exec(compile(snippet, "docs/cache.md", "exec"), {})
    assert capsys.readouterr().out == "1 (8, 8, 8) A picture of noise.\n"


def test_files_of_the_folder_are_listed():
    for name in (CHOICES, JOURNAL, LEDGER, IDENTITY, WORK):
        assert f"`{name}`" in GUIDE
