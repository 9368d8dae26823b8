# SPDX-License-Identifier: Apache-2.0
"""A frozen tree stays as it is, and copies are apart."""

import copy
import pickle

import pytest

from diffnext.config import CfgNode, ConfigError, get_cfg


def frozen_changes():
    return {
        "attribute": lambda c: setattr(c.SOLVER, "BASE_LR", 1.0),
        "item": lambda c: c["SOLVER"].__setitem__("BASE_LR", 1.0),
        "update": lambda c: c.SOLVER.update(BASE_LR=1.0),
        "file": lambda c: c.merge_from_other_cfg({"SOLVER": {"BASE_LR": 1.0}}),
        "list": lambda c: c.merge_from_list(["SOLVER.BASE_LR", "1"]),
        "new": lambda c: setattr(c.MODEL.CONFIG, "depth", 1),
        "nested": lambda c: c.MODEL.CONFIG.arch.update(depth=1),
        "pop": lambda c: c.MODEL.CONFIG.pop("arch"),
        "delete": lambda c: c.MODEL.CONFIG.__delitem__("arch"),
        "clear": lambda c: c.MODEL.CONFIG.clear(),
        "setdefault": lambda c: c.MODEL.CONFIG.setdefault("depth", 1),
        "or": lambda c: c.MODEL.CONFIG.__ior__({"depth": 1}),
    }


@pytest.mark.parametrize("change", frozen_changes())
def test_a_frozen_tree_cannot_be_changed_in_any_way(cfg, change):
    cfg.MODEL.CONFIG = {"arch": {"width": 64}}
    cfg.freeze()
    before = str(cfg)
    with pytest.raises(AttributeError, match="frozen"):
        frozen_changes()[change](cfg)
    assert str(cfg) == before
    cfg.defrost()
    frozen_changes()[change](cfg)
    assert str(cfg) != before


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, CfgNode.clone, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_are_independent_and_keep_their_rules(cfg, duplicate):
    cfg.MODEL.CONFIG = {"arch": {"depth": [1, (2, 3)]}}
    cfg.freeze()
    other = duplicate(cfg)
    assert str(other) == str(cfg)
    with pytest.raises(AttributeError, match="frozen"):
        other.SOLVER.BASE_LR = 1.0
    other.defrost()
    other.SOLVER.BASE_LR = 1.0
    other.MODEL.CONFIG.arch.depth.append(4)
    assert cfg.SOLVER.BASE_LR == 1e-4
    assert cfg.MODEL.CONFIG.arch.depth == [1, (2, 3)]
    with pytest.raises(ConfigError, match="the nearest is"):
        other.SOLVER.BASELR = 1.0


def test_what_is_assigned_is_copied(cfg):
    steps, options = [1], {"a": {"b": [1]}}
    cfg.SOLVER.DECAY_STEPS = steps
    cfg.METHOD.CONFIG = options
    steps.append(2)
    options["a"]["b"].append(2)
    assert cfg.SOLVER.DECAY_STEPS == [1]
    assert cfg.METHOD.CONFIG == {"a": {"b": [1]}}


def test_the_template_and_fresh_copies_are_apart(cfg):
    cfg.NUM_GPUS = 8
    assert get_cfg().NUM_GPUS == 1
