# SPDX-License-Identifier: Apache-2.0
"""Options have fixed names and types, whichever way they are set."""

import json
import math

import numpy as np
import pytest
import yacs.config

from diffnext.config import CfgNode, ConfigError, get_cfg


def by_attribute(cfg, key, value, tmp_path):
    section, name = key.split(".")
    setattr(getattr(cfg, section), name, value)


def by_item(cfg, key, value, tmp_path):
    section, name = key.split(".")
    cfg[section][name] = value


def by_update(cfg, key, value, tmp_path):
    section, name = key.split(".")
    cfg[section].update({name: value})


def by_file(cfg, key, value, tmp_path):
    section, name = key.split(".")
    path = tmp_path / "run.yml"
    path.write_text(json.dumps({section: {name: value}}))
    cfg.merge_from_file(path)


def by_command_line(cfg, key, value, tmp_path):
    cfg.merge_from_list([key, value])


def by_other(cfg, key, value, tmp_path):
    section, name = key.split(".")
    cfg.merge_from_other_cfg({section: {name: value}})


WAYS = [by_attribute, by_item, by_update, by_file, by_command_line, by_other]
every_way = pytest.mark.parametrize("way", WAYS)


def lookup(cfg, key):
    section, name = key.split(".")
    return cfg[section][name]


def test_the_base_class_is_that_of_yacs(cfg):
    assert isinstance(cfg, yacs.config.CfgNode)
    assert isinstance(cfg.SOLVER, yacs.config.CfgNode)


@every_way
@pytest.mark.parametrize(
    ("key", "given", "kept"),
    [
        ("SOLVER.BASE_LR", 1, 1.0),
        ("SOLVER.BASE_LR", "1e-5", 1e-5),
        ("SOLVER.BASE_LR", 3e-4, 3e-4),
        ("SOLVER.BASE_LR", "inf", math.inf),
        ("SOLVER.MAX_STEPS", 7, 7),
        ("SOLVER.MAX_STEPS", 1e4, 10000),
        ("MODEL.WEIGHTS", "/data/nova", "/data/nova"),
        ("MODEL.WEIGHTS", "1e-5", "1e-5"),
        ("SOLVER.DECAY_STEPS", (10, 20), [10, 20]),
        ("TRAIN.COMPILE", True, True),
    ],
)
def test_a_fitting_value_is_kept_with_the_type_of_the_default(cfg, way, key, given, kept, tmp_path):
    way(cfg, key, given, tmp_path)
    value = lookup(cfg, key)
    assert (type(value), value) == (type(kept), kept)


@pytest.mark.parametrize("way", [by_attribute, by_item, by_file, by_other])
def test_none_is_an_empty_text(cfg, way, tmp_path):
    cfg.MODEL.WEIGHTS = "/data"
    way(cfg, "MODEL.WEIGHTS", None, tmp_path)
    assert cfg.MODEL.WEIGHTS == ""


@every_way
@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("SOLVER.BASE_LR", "fast", "float"),
        ("SOLVER.BASE_LR", True, "float"),
        ("SOLVER.MAX_STEPS", True, "int"),
        ("SOLVER.BASE_LR", "nan", "float"),
        ("SOLVER.MAX_STEPS", 1.5, "int"),
        ("SOLVER.MAX_STEPS", 1e30, "int"),
        ("TRAIN.COMPILE", 1, "bool"),
        ("SOLVER.DECAY_STEPS", 5, "list"),
        ("SOLVER.BASE_LR", {"a": 1}, "float"),
    ],
)
def test_a_wrong_type_names_key_value_and_wanted_type(cfg, way, key, value, wanted, tmp_path):
    with pytest.raises(ConfigError) as caught:
        way(cfg, key, value, tmp_path)
    for part in (key, repr(value), type(value).__name__, f"wanted is {wanted}"):
        assert part in str(caught.value)
    assert str(get_cfg()) == str(cfg)


@pytest.mark.parametrize("word", ["nan", "NaN", ".nan", "-nan"])
def test_no_way_leads_to_not_a_number(cfg, word, tmp_path):
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LR = .*command line: wanted is float"):
        cfg.merge_from_list(["SOLVER.BASE_LR", word])
    (tmp_path / "run.yml").write_text(f"SOLVER: {{BASE_LR: {word}}}")
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LR = .*run\.yml: wanted is float"):
        cfg.merge_from_file(tmp_path / "run.yml")
    with pytest.raises(ConfigError, match="wanted is float other than nan"):
        cfg.SOLVER.BASE_LR = math.nan
    with pytest.raises(ConfigError, match="wanted is float; it is"):
        cfg.SOLVER.BASE_LR = np.full(2, np.nan)


def test_a_power_of_ten_is_a_number_of_steps(cfg, tmp_path):
    cfg.merge_from_list(["SOLVER.MAX_STEPS", "1e4"])
    (tmp_path / "run.yml").write_text("SOLVER: {DISPLAY: 1e2}")
    cfg.merge_from_file(tmp_path / "run.yml")
    assert repr((cfg.SOLVER.MAX_STEPS, cfg.SOLVER.DISPLAY)) == "(10000, 100)"


def test_an_error_names_the_file_or_the_command_line(cfg, tmp_path):
    base, child = tmp_path / "base.yml", tmp_path / "child.yml"
    base.write_text("SOLVER: {MAX_STEPS: many}")
    child.write_text("_BASE_: base.yml\nNUM_GPUS: 2")
    with pytest.raises(ConfigError, match=rf"SOLVER\.MAX_STEPS = 'many' \(str\) in {base}: "):
        cfg.merge_from_file(child)
    with pytest.raises(ConfigError, match=r"on the command line: wanted is int; it is 1 now"):
        cfg.merge_from_list(["NUM_GPUS", "two"])


@every_way
def test_an_unknown_name_says_the_nearest(cfg, way, tmp_path):
    with pytest.raises(ConfigError, match=r"SOLVER\.BASELR.*the nearest is SOLVER\.BASE_LR"):
        way(cfg, "SOLVER.BASELR", 1.0, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("BASE_LR", "SOLVER.BASE_LR"),
        ("TRAIN.BASE_LR", "SOLVER.BASE_LR"),
        ("BASELR", "SOLVER.BASE_LR"),
        ("SLOVER.MAX_STEPS", "SOLVER.MAX_STEPS"),
        ("NUM_GPU", "NUM_GPUS"),
        ("train.batch_size", "TRAIN.BATCH_SIZE"),
        ("TRAIN.BATCHSIZE", "TRAIN.BATCH_SIZE"),
        ("MODEL.CONFG", "MODEL.CONFIG"),
        ("SLOVER", "SOLVER"),
        ("SOLVER.GRAD_CLIP", "SOLVER.CLIP_GRAD"),
        ("TRAIN.EMA", "TRAIN.MODEL_EMA"),
        ("MODEL.WEIGHT", "MODEL.WEIGHTS"),
    ],
)
def test_the_nearest_name_is_looked_for_in_all_sections(cfg, wrong, nearest):
    with pytest.raises(ConfigError) as caught:
        cfg.merge_from_list([wrong, "1"])
    assert str(caught.value) == (
        f"there is no option {wrong} on the command line; the nearest is {nearest}"
    )


def test_reading_an_unknown_name_says_the_nearest(cfg):
    with pytest.raises(AttributeError, match=r"the nearest is TRAIN\.DATASET"):
        cfg.TRAIN.DATASETS  # noqa: B018
    with pytest.raises(KeyError, match=r"the nearest is TRAIN\.DATASET"):
        cfg["TRAIN"]["DATASETS"]
    assert not hasattr(cfg, "NO_SUCH")
    assert cfg.get("NO_SUCH") is None


def test_options_cannot_be_removed(cfg):
    for remove in (cfg.SOLVER.clear, cfg.SOLVER.popitem, lambda: cfg.SOLVER.pop("BASE_LR")):
        with pytest.raises(ConfigError, match="cannot be removed"):
            remove()
    assert str(cfg) == str(get_cfg())


def test_a_section_cannot_be_replaced(cfg):
    for value in ({"BASE_LR": 1.0}, 3, "x", None):
        with pytest.raises(ConfigError, match=r"SOLVER = .*this is a section"):
            cfg.SOLVER = value
    cfg.merge_from_other_cfg({"SOLVER": None})  # a heading with nothing below it
    assert str(cfg) == str(get_cfg())


def test_a_free_section_takes_any_names_and_merges(cfg):
    cfg.MODEL.CONFIG = {"arch": ["a", "b"], "size": {"image": 64, "video": 32}}
    cfg.merge_from_other_cfg({"MODEL": {"CONFIG": {"size": {"image": [480, 768]}}}})
    cfg.merge_from_list(["MODEL.CONFIG.size.depth", "2", "MODEL.CONFIG", "{rotary: true}"])
    wanted = {"arch": ["a", "b"], "size": {"image": [480, 768], "video": 32, "depth": 2}}
    assert cfg.MODEL.CONFIG == {**wanted, "rotary": True}
    assert cfg.MODEL.CONFIG.size.depth == 2
    cfg.MODEL.CONFIG = {"other": 1}
    assert cfg.MODEL.CONFIG == {"other": 1}


def test_a_free_section_can_be_the_path_of_a_file(cfg, tmp_path):
    folder = tmp_path / "transformer"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "Net", "arch": ["a"], "image_size": 64}')
    (tmp_path / "run.yml").write_text("MODEL: {CONFIG: transformer/config.json}")
    cfg.merge_from_file(tmp_path / "run.yml")
    assert cfg.MODEL.CONFIG == {"arch": ["a"], "image_size": 64}
    cfg.merge_from_list(["MODEL.CONFIG.image_size", "32"])
    assert cfg.MODEL.CONFIG.image_size == 32
    with pytest.raises(ConfigError, match=r"gone\.json on the command line cannot be read"):
        cfg.merge_from_list(["MODEL.CONFIG", str(tmp_path / "gone.json")])
    with pytest.raises(ConfigError, match="wanted is a mapping"):
        cfg.MODEL.CONFIG = 3


@pytest.mark.parametrize("nothing", [None, "", {}])
def test_a_free_section_can_be_emptied(cfg, nothing):
    cfg.MODEL.CONFIG = {"arch": ["a"]}
    cfg.MODEL.CONFIG = nothing
    assert cfg.MODEL.CONFIG == {}
    cfg.MODEL.CONFIG.image_size = 64
    assert cfg.MODEL.CONFIG == {"image_size": 64}


@pytest.mark.parametrize("value", [object(), {1: "a"}, [b"x"], {"a": {2: 3}}, {"a": 1j}])
def test_values_that_yaml_cannot_hold_are_refused(cfg, value):
    with pytest.raises(ConfigError, match=r"MODEL\.CONFIG"):
        cfg.MODEL.CONFIG = {"x": value}
    with pytest.raises(ConfigError, match=r"MODEL\.CONFIG\.x"):
        cfg.MODEL.CONFIG.x = value


def test_internal_names_are_no_options(cfg):
    for node in (cfg, cfg.MODEL.CONFIG):
        with pytest.raises(ConfigError, match="__immutable__"):
            node["__immutable__"] = True


def test_a_renamed_option_names_the_new_one():
    node = CfgNode()
    node.SOLVER = CfgNode()
    node.SOLVER.CLIP_GRAD = 0.0
    node.register_renamed_key("SOLVER.CLIP_NORM", "SOLVER.CLIP_GRAD", message="0 is off now")
    node.seal()
    message = r"SOLVER\.CLIP_NORM.* was renamed to SOLVER\.CLIP_GRAD; 0 is off now"
    with pytest.raises(ConfigError, match=message):
        node.SOLVER.CLIP_NORM = 1.0
    with pytest.raises(ConfigError, match=message):
        node.merge_from_list(["SOLVER.CLIP_NORM", "1"])
    with pytest.raises(AttributeError, match=message):
        node.SOLVER.CLIP_NORM  # noqa: B018
