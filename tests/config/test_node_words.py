# SPDX-License-Identifier: Apache-2.0
"""What words of the command line mean, also for options of several types."""

import copy

import pytest

from diffnext.config import CfgNode, ConfigError, get_cfg


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1", 1),
        ("1e-5", 1e-5),
        ("true", True),
        ("True", True),
        ("None", None),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("(1, 2)", (1, 2)),
        ("{a: [b]}", {"a": ["b"]}),
        ("{'a': 1}", {"a": 1}),
        ("'1'", "1"),
        ("", ""),
        ("16:9", "16:9"),
        ("yes", "yes"),
        ("a: b: c", "a: b: c"),
        ("C:\\x", "C:\\x"),
    ],
)
def test_words_of_the_command_line(cfg, word, value):
    cfg.merge_from_list(["METHOD.CONFIG.x", word])
    assert type(cfg.METHOD.CONFIG.x) in (type(value), CfgNode)
    assert cfg.METHOD.CONFIG.x == value


@pytest.mark.parametrize("word", ["1", "None", "true", "[x]", "", "'x'"])
def test_a_text_option_takes_the_word_as_it_is(cfg, word):
    cfg.merge_from_list(["SOLVER.SNAPSHOT_PREFIX", word])
    assert cfg.SOLVER.SNAPSHOT_PREFIX == word


@pytest.mark.parametrize("words", [["NUM_GPUS=2"], ["NUM_GPUS=2", "RNG_SEED=5"]])
def test_a_key_without_value_is_an_error(cfg, words):
    with pytest.raises(ConfigError, match=r"'NUM_GPUS=2'.*KEY VALUE pairs, not KEY=VALUE"):
        cfg.merge_from_list(words)


@pytest.mark.parametrize(
    "value", ["a:2,b:1", "[a]", ["a:2", "C:\\b"], {"s3://bucket/a": 2, "b": 0.5}, ["true", "1"]]
)
def test_an_option_of_several_types_comes_back_as_it_was(tmp_path, value):
    cfg = get_cfg()
    cfg.TRAIN.DATASET = value
    (tmp_path / "run.yml").write_text(str(cfg))
    read = get_cfg()
    read.TRAIN.DATASET = ["another", "type"]
    read.merge_from_file(tmp_path / "run.yml")
    assert read.TRAIN.DATASET == value and type(read.TRAIN.DATASET) is type(value)
    assert copy.deepcopy(read).clone().TRAIN.DATASET == value


def test_words_for_an_option_of_several_types():
    cfg = get_cfg()
    for word, wanted in [
        ("a:2,b:1", "a:2,b:1"),
        ("C:\\cache", "C:\\cache"),
        ("123", "123"),
        ("[a, b:2]", ["a", "b:2"]),
        ("{a: 2, b: 1}", {"a": 2, "b": 1}),
        ("plain again", "plain again"),
    ]:
        cfg.merge_from_list(["TRAIN.DATASET", word])
        assert cfg.TRAIN.DATASET == wanted
    with pytest.raises(ConfigError, match=r"TRAIN\.DATASET = 3 .*wanted is str or list or dict"):
        cfg.TRAIN.DATASET = 3
    with pytest.raises(ConfigError, match="wanted is str or list; it is ''"):
        cfg.TRAIN.DATASET2 = {"a": 1}
