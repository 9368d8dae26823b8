# SPDX-License-Identifier: Apache-2.0
"""Options are checked against each other before anything is loaded."""

import pytest
import torch

from diffnext.config import get_cfg
from diffnext.engine import build
from diffnext.engine.build.idle import idle_options
from diffnext.engine.build.run import round_products


@pytest.mark.parametrize(
    ("section", "option", "place"),
    [
        ("TRAIN.LOADER_CONFIG", "batch_size", "TRAIN.BATCH_SIZE"),
        ("TRAIN.LOADER_CONFIG", "accum_steps", "SOLVER.ACCUM_STEPS"),
        ("TRAIN.LOADER_CONFIG", "seed", "RNG_SEED"),
        ("TRAIN.LOADER_CONFIG", "rank", "the launcher"),
        ("TRAIN.LOADER_CONFIG", "world", "the launcher"),
        ("TRAIN.LOADER_CONFIG", "num_threads", "TRAIN.NUM_THREADS"),
        ("TRAIN.LOADER_CONFIG", "weights", "TRAIN.DATASET"),
        ("PARALLEL.CONFIG", "precision", "MODEL.PRECISION"),
        ("PARALLEL.CONFIG", "config", "--deepspeed"),
    ],
)
def test_a_thing_is_set_in_one_place(section, option, place):
    cfg = get_cfg()
    cfg.merge_from_list(["PIPELINE.TYPE", "nova_train_t2i", f"{section}.{option}", "1"])
    with pytest.raises(ValueError, match=f"{section} has '{option}', which {place} sets"):
        build.make_plan(cfg, world=1)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("TRAIN.EXTRA_EMA", "[2]", "TRAIN.EXTRA_EMA has 2; a decay lies between 0 and 1"),
        ("SOLVER.SNAPSHOT_PREFIX", "a/b", "SOLVER.SNAPSHOT_PREFIX is 'a/b'; it begins a name"),
        ("NUM_GPUS", "-2", "NUM_GPUS is -2; wanted is at least 0"),
        ("PARALLEL.CONFIG.bucket_mb", "much", "CONFIG.bucket_mb is 'much'; a number is wanted"),
        ("MODEL.WEIGHTS", "gone", "MODEL.WEIGHTS is 'gone', and there is no such folder"),
        ("PIPELINE.TYPE", "nova_t2i", "no PIPELINE.TYPE 'nova_t2i'; there are"),
    ],
)
def test_an_error_names_its_option(key, value, said):
    cfg = get_cfg()
    cfg.merge_from_list(["PIPELINE.TYPE", "nova_train_t2i", key, value])
    cfg.PARALLEL.BACKEND = "ddp"
    with pytest.raises(ValueError, match=said):
        build.make_plan(cfg, world=1)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("SOLVER.BASE_LR", 0, "SOLVER.BASE_LR is 0, at which nothing learns"),
        ("SOLVER.DECAY_STEPS", "[3]", "SOLVER.DECAY_STEPS is [3] and acts with SOLVER.LR_POLICY "),
        ("SOLVER.LR_POLICY", "steps_with_decay", "without SOLVER.DECAY_STEPS: the rate stays"),
        ("SOLVER.MAX_STEPS", 249, "WARM_UP_STEPS is 250 and SOLVER.MAX_STEPS 249: the rate never"),
        ("EVAL.DATASET", "cache", "EVAL.DATASET is set and EVAL.EVERY is 0: nothing is evaluated"),
        ("SAMPLE.PROMPTS", "[a]", "SAMPLE.PROMPTS is set and SAMPLE.EVERY is 0: nothing is drawn"),
    ],
)
def test_what_is_set_in_vain_is_told(key, value, said):
    cfg = get_cfg()
    assert idle_options(cfg) == []
    cfg.merge_from_list([key, str(value)])
    (line,) = idle_options(cfg)
    assert line.startswith("WARNING    ") and said in line


@pytest.mark.parametrize("tf32", [True, False])
def test_products_and_convolutions_are_rounded_alike(tf32):
    before = torch.backends.cudnn.allow_tf32
    try:
        round_products(tf32)
        assert torch.backends.cudnn.allow_tf32 == tf32
        assert torch.backends.cuda.matmul.allow_tf32 == tf32
    finally:
        round_products(False)
        torch.backends.cudnn.allow_tf32 = before
