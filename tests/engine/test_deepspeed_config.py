# SPDX-License-Identifier: Apache-2.0
"""The DeepSpeed json and the run's options are joined; a contradiction names both values."""

import json
from pathlib import Path

import pytest

from diffnext.engine.backends.deepspeed_config import merge_config, read_config, zero_stage

RUN = {"batch_size": 2, "accum_steps": 3, "world": 4, "precision": "bfloat16", "max_norm": 1.0}
SHIPPED = Path(__file__).parents[2] / "configs" / "deepspeed"


def test_what_the_run_decides_is_filled_in():
    config = merge_config({"zero_optimization": {"stage": 2}}, **RUN)
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 3
    assert config["train_batch_size"] == 24
    assert config["gradient_clipping"] == 1.0
    assert config["bf16"]["enabled"] is True
    assert config["fp16"]["enabled"] is False


def test_auto_and_equal_values_are_accepted_and_the_rest_is_kept():
    user = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 10},
        "optimizer": "auto",
    }
    config = merge_config(user, **RUN)
    assert config["gradient_accumulation_steps"] == 3
    assert config["zero_optimization"]["stage3_param_persistence_threshold"] == 10
    assert "optimizer" not in config
    assert user["optimizer"] == "auto"  # what is handed in is not edited


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"train_micro_batch_size_per_gpu": 4}, r"per_gpu 4, the run has 2 \(TRAIN\.BATCH_SIZE\)"),
        ({"gradient_accumulation_steps": 1}, r"steps 1, the run has 3 \(SOLVER\.ACCUM_STEPS\)"),
        ({"train_batch_size": 8}, r"train_batch_size 8, the run has 24"),
        ({"gradient_clipping": 0.5}, r"clipping 0\.5, the run has 1\.0 \(SOLVER\.CLIP_GRAD\)"),
        (
            {"fp16": {"enabled": True}},
            r"fp16\.enabled true, the run has MODEL\.PRECISION 'bfloat16'",
        ),
        (
            {"bf16": {"enabled": False}},
            r"bf16\.enabled false, the run has MODEL\.PRECISION 'bfloat16'",
        ),
        (
            {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
            r"torch_autocast, the run has MODEL\.PRECISION 'bfloat16'",
        ),
        (
            {"activation_checkpointing": {"number_checkpoints": 2}},
            r"comes from TRAIN\.CHECKPOINTING",
        ),
        ({"optimizer": {"type": "Adam"}}, r"'optimizer'; the run's comes from SOLVER\.OPTIMIZER"),
        (
            {"scheduler": {"type": "WarmupLR"}},
            r"'scheduler'; the run's comes from SOLVER\.LR_POLICY",
        ),
    ],
)
def test_contradictions_name_both_values(user, message):
    with pytest.raises(ValueError, match=message):
        merge_config(user, **RUN)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_the_shipped_files_are_accepted(path):
    precision = "bfloat16" if "bf16" in path.stem else "float16"
    config = merge_config(read_config(str(path)), **(RUN | {"precision": precision}))
    assert zero_stage(config) == int(path.stem[4])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("[1]", "holds a list"),
        ('{"zero_optimization": 3}', "zero_optimization is 3, wanted an object"),
        ('{"bf16": true}', "bf16 is True, wanted an object"),
        ('{"zero_optimization": {"offload_param": "cpu"}}', r"\.offload_param is 'cpu', wanted an"),
        ('{"zero_optimization": {"stage": "two"}}', "stage is 'two', wanted 0, 1, 2 or 3"),
    ],
)
def test_a_file_that_is_no_object_is_named(tmp_path, text, message):
    path = tmp_path / "zero.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"zero\.json.*{message}"):
        read_config(str(path))
    with pytest.raises(ValueError, match=r"none\.json"):
        read_config(str(tmp_path / "none.json"))


def test_offload_works_with_the_optimizer_of_the_run():
    config = merge_config(
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, **RUN
    )
    assert config["zero_force_ds_cpu_optimizer"] is False
    assert json.dumps(config)
