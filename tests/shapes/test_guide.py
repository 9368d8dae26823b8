# SPDX-License-Identifier: Apache-2.0
"""The guide to the shapes world states its attributes and numbers as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffnext.shapes import world

GUIDE = Path(__file__).parents[2] / "docs" / "shapes.md"


@pytest.fixture(scope="module")
def table() -> dict[str, str]:
    """Attribute to what the guide says of it."""
    rows = re.findall(r"^\| (\w+) \| (.*) \|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    return {key: text for key, text in rows if key != "attribute"}


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def test_every_attribute_has_its_row(table: dict[str, str]) -> None:
    assert tuple(table) == world.ATTRIBUTES


@pytest.mark.parametrize("key", ["colour", "shape", "size", "background", "direction", "speed"])
def test_the_values_are_those_of_the_world(table: dict[str, str], key: str) -> None:
    listed = re.match(r"[a-z, ]+?(?=[:;]|, in |$)", table[key]).group()
    assert tuple(listed.split(", ")) == world.VALUES[key]


def test_the_numbers_are_those_of_the_world(table: dict[str, str]) -> None:
    assert numbers(table["size"]) == [*world.SIZES.values(), 100 * world.SIZE_JITTER]
    assert numbers(table["speed"]) == [*world.SPEEDS.values(), 100 * world.SPEED_JITTER]
    assert numbers(table["shape"]) == [world.ANGLE_JITTER]
    distance, jitter = numbers(table["place"])
    assert distance == pytest.approx(world.ROWS["bottom"] - 0.5)
    assert jitter == world.PLACE_JITTER


def test_the_places_are_the_rows_and_columns(table: dict[str, str]) -> None:
    words = set(re.findall(r"[a-z]+", table["place"]))
    assert {*world.ROWS, *world.COLUMNS, "center"} - {""} <= words
    assert table["place"].startswith("nine") and len(world.PLACES) == 9
