# SPDX-License-Identifier: Apache-2.0
"""Training learns: eight samples are memorised, as seen by the loss at fixed noise."""

import importlib.util
from pathlib import Path

import pytest
import torch

from diffnext.data.loader import Loader
from diffnext.data.records import open_reader
from diffnext.pipelines.builder import build_pipeline
from diffnext.utils.seeding import Draws
from tests.runs.tiny_nova import TASKS, make_run

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"


def train(*arguments: str) -> int:
    spec = importlib.util.spec_from_file_location("train", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(list(arguments))


def fixed_loss(folder: Path, task: str, weights: Path | str) -> float:
    """Loss of the eight samples at noise that no training step has drawn."""
    pipe = build_pipeline(
        str(folder / "model"),
        f"nova_train_{task}",
        "float32",
        modules={"transformer": str(weights)},
        dropout=0.0,
    )
    net = pipe.configure()
    reader = open_reader(folder / "cache")
    batch = next(Loader(reader, batch_size=8, num_threads=0))
    with torch.no_grad():
        losses = [
            pipe.loss(net, pipe.prepare(batch, draws=Draws(999 + i, 0, batch.keys()))).loss.item()
            for i in range(4)
        ]
    reader.close()
    return sum(losses) / len(losses)


@pytest.mark.parametrize("task", TASKS)
def test_eight_samples_are_memorised(tmp_path, task):
    config = make_run(
        tmp_path,
        task,
        **{
            "SOLVER.BASE_LR": 4e-3,
            "SOLVER.MAX_STEPS": 120,
            "SOLVER.SNAPSHOT_EVERY": 120,
            "SOLVER.LR_POLICY": "cosine_decay",
            "SOLVER.WARM_UP_STEPS": 10,
            "SOLVER.CLIP_GRAD": 1.0,
            "SOLVER.DISPLAY": 40,
            "TRAIN.BATCH_SIZE": 8,
            "TRAIN.TEXT_DROPOUT": 0.0,
            "TRAIN.CHECKPOINTING": 0,
        },
    )
    run = tmp_path / "run"
    assert train("--cfg", str(config), "--exp-dir", str(run), "SOLVER.MAX_STEPS", "1") == 0
    before = fixed_loss(tmp_path, task, run / "checkpoints/tiny_iter_1/transformer")
    assert train("--cfg", str(config), "--exp-dir", str(run)) == 0
    after = fixed_loss(tmp_path, task, run / "checkpoints/tiny_iter_120/transformer")
    assert after < before / 3
