# SPDX-License-Identifier: Apache-2.0
"""A configuration written as text is read back with every value and type as it was."""

import math

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffnext.config import CfgNode, ConfigError, get_cfg
from diffnext.config.yaml_text import load

TRICKY = (
    "1e-5 1E5 1.0 .5 5. 010 0o7 0x1F 1_000 true True no on y null None ~ 2026-01-31 12:30:45 .inf -.nan"
    " << = - ? : # % @ ` ! & * | > _BASE_ !!python/tuple 0 -0 +1 \xe9 \u96ea \ufeff \U0001f600"
).split()
tricky_text = st.sampled_from(
    [*TRICKY, "", " ", "\n", "a\nb\n", "\r\n", "\t x ", "a: b", "- a", "\x85"]
)
text = tricky_text | st.text()
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from([1e-5, -0.0, math.inf, -math.inf, 1e16, 5e-324])
    | text
)
names = text.filter(lambda name: not name.startswith("__"))
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(names, inner, max_size=3)
    ),
    max_leaves=8,
)


def exact(value):
    """A form of a value in which 1, 1.0 and True differ, and so do lists and tuples."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(exact, value)]
    return type(value).__name__, repr(value)


@settings(max_examples=200)
@given(
    free=st.dictionaries(names, values, max_size=4),
    lr=st.floats(allow_nan=False),
    path=text,
    steps=st.lists(st.integers(), max_size=3),
    flag=st.booleans(),
)
@example(free={"a": ((), [], {}, "")}, lr=1e-5, path="1e-5", steps=[], flag=True)
def test_what_is_written_is_read_back_exactly(tmp_path_factory, free, lr, path, steps, flag):
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.DECAY_STEPS = lr, steps
    cfg.MODEL.WEIGHTS, cfg.TRAIN.COMPILE = path, flag
    cfg.METHOD.CONFIG = free
    file = tmp_path_factory.mktemp("cfg") / "run.yml"
    open(file, "w").write(str(cfg))
    again = get_cfg()
    again.merge_from_file(file)
    assert exact(again) == exact(cfg)
    assert str(again) == str(cfg)
    assert str(cfg).isascii()


@settings(max_examples=200)
@given(st.dictionaries(st.text(), scalars, max_size=4))
def test_any_reader_of_yaml_sees_the_same_values(options):
    node = CfgNode(new_allowed=True)
    node.update({f"k{key}": value for key, value in options.items()})
    assert exact(yaml.safe_load(str(node))) == exact(dict(node))


def test_not_a_number_survives():
    node = CfgNode({"x": math.nan}, new_allowed=True)
    assert math.isnan(load(str(node))["x"])


def test_a_written_file_is_pleasant_to_read():
    cfg = get_cfg()
    cfg.SOLVER.DECAY_STEPS = [100, 200]
    cfg.MODEL.CONFIG = {"arch": ["a", "b"], "size": {"image": 64}}
    assert "  DECAY_STEPS: [100, 200]\n" in str(cfg)
    assert "  CONFIG:\n    arch: [a, b]\n    size:\n      image: 64\n" in str(cfg)
    assert str(cfg.METHOD) == "TYPE: finetune\nCONFIG: {}\n"


def test_the_style_is_a_matter_of_choice_as_with_yacs():
    node = CfgNode({"b": (1, "2"), "a": {"c": None}})
    assert node.dump(sort_keys=True, default_flow_style=True) == (
        "{a: {c: null}, b: !!python/tuple [1, '2']}\n"
    )


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-.inf", -math.inf),
        ("yes", "yes"),
        ("NO", "NO"),
        ("12:30", "12:30"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("2026-01-31", "2026-01-31"),
        ("0x1F", 31),
        ("", None),
        ("!!python/tuple [1, [2]]", (1, [2])),
    ],
)
def test_what_a_person_writes_means_what_it_looks_like(written, value):
    assert exact(load(f"x: {written}")) == exact({"x": value})


@pytest.mark.parametrize(
    "written",
    ["!!python/object/apply:os.system [echo]", "!!python/name:os.system", "!thing 1"],
)
def test_no_object_is_made(written):
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load(f"x: {written}")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("NUM_GPUS: 1\nNUM_GPUS: 2", r"key 'NUM_GPUS' is set twice(.|\n)*line 2"),
        ("SOLVER: {BASE_LR: 1, BASE_LR: 2}", "key 'BASE_LR' is set twice"),
        ("1: 2", "key 1 is not text"),
        ("[1, 2", r"is not readable as YAML(.|\n)*run.yml\", line 1"),
        ("- a", "run.yml holds a list"),
        ("_BASE_: 3", "_BASE_ = 3 in .*run.yml must be a path"),
        ("_BASE_: gone.yml", r"_BASE_ = 'gone\.yml' in .*run\.yml: there is no file"),
    ],
)
def test_a_broken_file_says_what_and_where(tmp_path, written, message):
    (tmp_path / "run.yml").write_text(written)
    with pytest.raises(ConfigError, match=message):
        get_cfg().merge_from_file(tmp_path / "run.yml")


def test_only_yaml_is_read(tmp_path):
    (tmp_path / "run.py").write_text("cfg = {}")
    with pytest.raises(ConfigError, match=r"run\.py is no YAML file"):
        get_cfg().merge_from_file(tmp_path / "run.py")
    with pytest.raises(FileNotFoundError, match=r"gone\.yml"):
        get_cfg().merge_from_file(tmp_path / "gone.yml")
    (tmp_path / "latin.yml").write_bytes(b"MODEL: {WEIGHTS: \xe9}")
    with pytest.raises(ConfigError, match=r"latin\.yml is not UTF-8"):
        get_cfg().merge_from_file(tmp_path / "latin.yml")


def test_files_inherit(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a.yml").write_text("_BASE_: ../root.yml\nSOLVER: {MAX_STEPS: 2}")
    (tmp_path / "root.yml").write_text("NUM_GPUS: 4\nSOLVER: {MAX_STEPS: 1, DISPLAY: 1}")
    (tmp_path / "b.yml").write_text("SOLVER: {MAX_STEPS: 3}\nMODEL: {CONFIG: {x: 1, y: {z: 1}}}")
    run = tmp_path / "run.yml"
    run.write_text(
        "_BASE_: [base/a.yml, b.yml]\nSOLVER: {DISPLAY: 9}\nMODEL: {CONFIG: {y: {w: 2}}}"
    )
    cfg = get_cfg()
    cfg.merge_from_file(run)
    assert (cfg.NUM_GPUS, cfg.SOLVER.MAX_STEPS, cfg.SOLVER.DISPLAY) == (4, 3, 9)
    assert cfg.MODEL.CONFIG == {"x": 1, "y": {"z": 1, "w": 2}}


def test_a_circle_of_files_is_an_error(tmp_path):
    (tmp_path / "a.yml").write_text("_BASE_: b.yml")
    (tmp_path / "b.yml").write_text("_BASE_: ./a.yml")
    with pytest.raises(ConfigError, match=r"circle: .*a\.yml -> .*b\.yml -> .*a\.yml"):
        get_cfg().merge_from_file(tmp_path / "a.yml")
