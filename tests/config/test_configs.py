# SPDX-License-Identifier: Apache-2.0
"""The shipped configurations load, say what exists, and describe the published models."""

import json
import re
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import torch

from diffnext.config import get_cfg
from diffnext.config.yaml_text import load_file
from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
from diffnext.pipelines.builder import PIPELINES

CONFIGS = Path(__file__).parents[2] / "configs"
TRANSFORMERS = CONFIGS / "nova" / "transformer"
RUNS = [
    path
    for path in sorted(CONFIGS.rglob("*.yml"))
    if path.parent.name not in ("base", "transformer")
]
PUBLISHED_BILLIONS = {768: 0.3, 1024: 0.6, 1536: 1.4}
PUBLISHED_DEFAULTS = {
    "NUM_GPUS": 1,
    "RNG_SEED": 3,
    "GPU_ID": 0,
    "MODEL.TYPE": "transformer",
    "MODEL.PRECISION": "bfloat16",
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.MIN_LR": 0.0,
    "SOLVER.MAX_STEPS": 2147483647,
    "SOLVER.DISPLAY": 20,
    "SOLVER.EMA_EVERY": 100,
    "SOLVER.SNAPSHOT_EVERY": 5000,
    "SOLVER.DECAY_STEPS": [],
    "SOLVER.DECAY_GAMMA": 0.5,
    "SOLVER.WARM_UP_STEPS": 250,
    "SOLVER.WARM_UP_FACTOR": 1e-3,
    "SOLVER.OPTIMIZER": "AdamW",
    "SOLVER.ADAM_BETA2": 0.95,
    "SOLVER.WEIGHT_DECAY": 0.02,
    "SOLVER.ACCUM_STEPS": 1,
    "SOLVER.CLIP_GRAD": 0.0,
    "TRAIN.DATASET2": "",
    "TRAIN.LOADER": "vae_train",
    "TRAIN.NUM_THREADS": 4,
    "TRAIN.BATCH_SIZE": 1,
    "TRAIN.MODEL_EMA": 0.99,
    "TRAIN.DEVICE_EMA": "gpu",
    "TRAIN.LOSS_REPEAT": 4,
    "TRAIN.CHECKPOINTING": 2,
    "TRAIN.TEXT_DROPOUT": 0.1,
}


def test_defaults_are_those_of_the_published_trainer():
    cfg = get_cfg()
    found = {key: reduce(getitem, key.split("."), cfg) for key in PUBLISHED_DEFAULTS}
    assert found == PUBLISHED_DEFAULTS


def name_of(path):
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_a_run_is_complete(path):
    cfg = get_cfg()
    cfg.merge_from_file(path)
    assert cfg.PIPELINE.TYPE in PIPELINES.names()
    assert cfg.MODEL.WEIGHTS
    assert cfg.SOLVER.SNAPSHOT_PREFIX
    assert cfg.SOLVER.MAX_STEPS < get_cfg().SOLVER.MAX_STEPS


@pytest.mark.parametrize("path", sorted(TRANSFORMERS.glob("*.yml")), ids=name_of)
def test_a_network_has_the_size_that_was_published(path):
    options = load_file(str(path))
    with torch.device("meta"):
        net = NOVATransformer3DModel(**options)
    count = sum(p.numel() for p in net.parameters())
    width = int(re.search(r"w(\d+)_", path.name)[1])
    assert count // 1e8 / 10 == PUBLISHED_BILLIONS[width]


@pytest.mark.parametrize("path", sorted((CONFIGS / "nova").glob("*.yml")), ids=name_of)
def test_a_published_model_names_its_network(path):
    named = re.search(r"MODEL\.CONFIG (\S+)", path.read_text(encoding="utf-8"))[1]
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.CONFIG", str(CONFIGS.parent / named)])
    assert cfg.MODEL.CONFIG == load_file(str(TRANSFORMERS / path.name.removeprefix("nova_")))


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_deepspeed_files_are_what_their_names_say(stage, precision):
    options = json.loads((CONFIGS / "deepspeed" / f"zero{stage}_{precision}.json").read_text())
    assert options["zero_optimization"]["stage"] == stage
    assert [key for key in ("bf16", "fp16") if key in options] == [precision]
    assert options[precision]["enabled"] is True
    assert not any("batch" in key for key in options)  # the batch is that of the run
