# SPDX-License-Identifier: Apache-2.0
"""The table of memory: all ways, no data needed, and the numbers of the dry run."""

import importlib.util
import json
import re

import pytest

from tests.runs.test_overfit import SCRIPT, train
from tests.runs.tiny_nova import make_run

SPEC = importlib.util.spec_from_file_location(
    "estimate_memory", SCRIPT.parents[1] / "tools" / "estimate_memory.py"
)
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), "t2i")


def table(capsys):
    head, *rows = capsys.readouterr().out.splitlines()[1:]
    assert head.split("  ")[-1].strip() == "keep products"
    return {row[:18].strip(): re.findall(r"([0-9.]+)(!?)", row[18:]) for row in rows}


def test_the_table_has_each_way_and_splitting_saves(config, capsys, tmp_path):
    options = [
        "TRAIN.DEVICE_EMA",
        "gpu",
        "TRAIN.DATASET",
        "",
        "TRAIN.BATCH_SIZE",
        "64",
        "MODEL.CONFIG.arch",
    ]
    arch = "[vit_d4w512,vit_d4w512,mlp_d2w512]"
    sizes = {"stage": 3, "reduce_bucket_size": 1e6, "offload_param": {"device": "cpu"}}
    (tmp_path / "zero.json").write_text(json.dumps({"zero_optimization": sizes}))
    command = ["--cfg", str(config), "--processes", "8", "--device-gib", "0.4"]
    command += ["--deepspeed", str(tmp_path / "zero.json"), *options, arch]
    assert tool.main(command) == 0
    rows = table(capsys)
    assert len(rows) == 9
    assert all(len(cells) == (10 if "offload" in way else 5) for way, cells in rows.items())
    first = {way: float(cells[0][0]) for way, cells in rows.items()}
    assert first["fsdp offload"] < first["fsdp"] < first["zero 2"] < first["zero 1"] < first["ddp"]
    assert float(rows["ddp"][3][0]) < first["ddp"]  # level 3
    assert all((float(size) >= 0.4) == bool(mark) for size, mark in rows["ddp"] if size != "0.40")


def test_it_agrees_with_the_dry_run(config, capsys):
    assert (
        train("--cfg", str(config), "--dry-run", "NUM_GPUS", "2", "TRAIN.CHECKPOINTING", "1") == 0
    )
    told = capsys.readouterr().out
    need = tool.variants(tool.parse_args(["--cfg", str(config)]))["level 1"]
    from diffnext.engine import build

    needs = build.survey(need, world=2)
    assert f"memory     {needs['ddp']} a process" in told
    assert needs["zero 2"].buffers > 4 * 5e8 > needs["ddp"].total  # its own bucket
    assert re.search(r"activations [0-9.]+ MiB", told)


def test_a_network_or_file_that_is_not_there_is_named(config, capsys):
    assert tool.main(["--cfg", str(config), "MODEL.WEIGHTS", "/nowhere"]) == 2
    assert "error:" in capsys.readouterr().err
    assert tool.main(["--cfg", str(config.parent)]) == 2
    assert f"error: [Errno 21] Is a directory: '{config.parent}'" in capsys.readouterr().err
