# SPDX-License-Identifier: Apache-2.0
"""The list of options in docs is that of the code, every option has its text, and each is used."""

import ast
from pathlib import Path

import pytest

from diffnext.config import get_cfg
from diffnext.config.reference import meanings, reference

ROOT = Path(__file__).parents[2]
READERS = ("diffnext", "scripts", "tools")


def test_the_document_is_up_to_date():
    remedy = "run: python -m diffnext.config.reference > docs/config.md"
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == reference(), remedy


def test_every_option_and_section_says_what_it_is_for():
    cfg = get_cfg()
    sections = [name for name, value in cfg.items() if isinstance(value, dict)]
    assert set(meanings()) == {*cfg.names(), *sections}
    assert all(text.endswith(".") for text in meanings().values())


def options_read(tree):
    """Names of options that a syntax tree reads: `x.NAME`, or `x.SECTION.NAME` and `section.NAME`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        if isinstance(node.value, ast.Attribute):
            yield f"{node.value.attr}.{node.attr}"
        if isinstance(node.value, ast.Name):
            yield node.attr
            yield f"{node.value.id.upper()}.{node.attr}"


@pytest.fixture(scope="module")
def read():
    found = set()
    for folder in READERS:
        for path in (ROOT / folder).rglob("*.py"):
            if path.parent.name != "config":
                found.update(options_read(ast.parse(path.read_text(encoding="utf-8"))))
    return found


@pytest.mark.parametrize("name", get_cfg().names())
def test_every_option_is_read_somewhere(read, name):
    assert name in read, f"nothing reads {name}: build what it promises, or take it out"
