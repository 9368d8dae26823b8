# SPDX-License-Identifier: Apache-2.0
"""Registries find classes by name, and say what exists where a name is wrong."""

import pytest

from diffnext.utils.registry import Registry, construct


class Widget:
    def __init__(self, size, *, colour="red", weight=1.0):
        self.size, self.colour, self.weight = size, colour, weight


def test_a_miss_imports_the_package(tmp_path, monkeypatch):
    package = tmp_path / "pluggable"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from diffnext.utils.registry import Registry\nTHINGS = Registry('thing', package='pluggable')"
    )
    (package / "one.py").write_text(
        "from pluggable import THINGS\n\n@THINGS.register('one')\nclass One:\n    number = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from pluggable import THINGS

    assert THINGS.get("one").number == 1
    assert THINGS.names() == ["one"]
    with pytest.raises(ValueError, match=r"no thing 'oen'.*\['one'\].*did you mean 'one'"):
        THINGS.get("oen")


def test_only_modules_of_the_given_name_are_imported(tmp_path, monkeypatch):
    package = tmp_path / "selective"
    package.mkdir()
    made = "THINGS = Registry('thing', package='selective', modules='thing_')"
    (package / "__init__.py").write_text(f"from diffnext.utils.registry import Registry\n{made}")
    (package / "thing_one.py").write_text("from selective import *\nTHINGS.register('one')(1)")
    (package / "heavy.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    from selective import THINGS

    assert THINGS.names() == ["one"]


def test_a_dotted_path_reaches_outside_the_package():
    registry = Registry("thing", package="diffnext.utils")
    assert registry.get("collections:OrderedDict").__name__ == "OrderedDict"
    with pytest.raises(ValueError, match="no_such_module:X"):
        registry.get("no_such_module:X")


def test_a_name_is_given_once():
    registry = Registry("thing", package="diffnext.utils")
    registry.register("widget")(Widget)
    with pytest.raises(ValueError, match="already"):
        registry.register("widget")(dict)


def test_construct_matches_keyword_only_options():
    widget = construct(Widget, 3, options={"colour": "blue"}, key="METHOD.CONFIG")
    assert (widget.size, widget.colour, widget.weight) == (3, "blue", 1.0)


def test_construct_names_what_the_class_lacks():
    class Gadget:
        def __init__(self, *, teeth: int, colour: str = "red") -> None: ...

    with pytest.raises(ValueError, match=r"METHOD\.CONFIG lacks \['teeth'\], which Gadget"):
        construct(Gadget, options={"colour": "blue"}, key="METHOD.CONFIG")


@pytest.mark.parametrize("wrong", ["color", "size"])
def test_construct_refuses_what_the_class_does_not_take(wrong):
    message = rf"METHOD\.CONFIG has \['{wrong}'\]; Widget takes \['colour', 'weight'\]"
    with pytest.raises(ValueError, match=message):
        construct(Widget, 3, options={wrong: 1}, key="METHOD.CONFIG")
