# SPDX-License-Identifier: Apache-2.0
"""Imports go down, files and functions stay short; and the checks that say so find what they are for."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONG_FUNCTION = 'def f():\n    """Says it."""\n' + "    x = 1\n" * 41


@pytest.fixture(scope="module")
def house():
    spec = importlib.util.spec_from_file_location("check_house", ROOT / "tools" / "check_house.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_house"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["check_house"]


def listed(breaches):
    return "\n".join(map(str, breaches))


def test_imports_go_down(house):
    found = house.layer_breaches(ROOT / "diffnext")
    assert not found, listed(found)


def test_files_are_short_and_plain(house):
    paths = [path for folder in house.SOURCES for path in (ROOT / folder).rglob("*.py")]
    assert paths
    found = [breach for path in paths for breach in house.text_breaches(path)]
    assert not found, listed(found)


@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        ("models/a.py", "from diffnext.pipelines import builder", "models may not import"),
        ("models/a.py", "def f():\n    from diffnext.engine import x", "inside a function"),
        ("models/sub/a.py", "from ...schedulers import x", "models may not import diffnext.sched"),
        ("models/sub/a.py", "from ..attention import x", ""),
        ("models/a.py", "import torch.distributed as dist", "must do without torch.distributed"),
        ("data/a.py", "from torch import distributed", "must do without torch.distributed"),
        ("utils/a.py", "import diffnext.models.attention", "utils may not import"),
        ("pipelines/a.py", "from diffnext.data import loader", "pipelines may not import"),
        ("pipelines/a.py", "from diffnext.data.schema import Batch", ""),
        ("methods/a.py", "from diffnext.pipelines.nova import x", "methods may not import"),
        ("methods/a.py", "from diffnext.pipelines.train_base import Inputs", ""),
        ("engine/a.py", "from diffnext.config import cfg", "engine may not import diffnext.config"),
        ("engine/a.py", "from diffnext.methods.finetune import X", "by name"),
        ("engine/a.py", "from diffnext.pipelines import nova", ""),
        ("engine/a.py", "from diffnext.pipelines.nova import train_nova", "by name"),
        ("engine/a.py", "from diffnext.methods import METHODS", ""),
        ("engine/a.py", "from diffnext.pipelines.builder import build_pipeline", ""),
        ("surprise/a.py", "import os", "has no layer"),
    ],
)
def test_a_forbidden_import_is_found(house, tmp_path, file, text, what):
    path = tmp_path / "diffnext" / file
    path.parent.mkdir(parents=True)
    path.write_text(text + "\n")
    found = house.layer_breaches(tmp_path / "diffnext")
    if what:
        assert len(found) == 1
        assert what in found[0].what
    else:
        assert not found, listed(found)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('"""Says it."""\n', "the first line must be"),
        ("{licence}\nx = 1\n", "does not say what it is for"),
        ('{licence}\n"""Says it."""\nx = "\xe9"\n', "not ASCII"),
        ('{licence}\n"""Says it."""\n' + "x = 1\n" * 399, "401 lines"),
        (f'{{licence}}\n"""Says it."""\n{LONG_FUNCTION}', "f has 41 lines"),
        ('{licence}\n"""Says it."""\n', ""),
        ('#!/usr/bin/env python\n{licence}\n"""Says it."""\n', ""),
        ("", ""),
    ],
)
def test_a_text_that_breaks_a_rule_is_found(house, tmp_path, text, what):
    path = tmp_path / "a.py"
    path.write_text(text.replace("{licence}", house.LICENCE), encoding="utf-8")
    found = house.text_breaches(path)
    assert len(found) == bool(what), listed(found)
    assert not what or what in found[0].what
