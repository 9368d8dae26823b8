# SPDX-License-Identifier: Apache-2.0
"""Scenes to words and back, in a small regular language."""

from __future__ import annotations

import re
from collections.abc import Iterable

from diffnext.shapes.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SIZES, SPEEDS, Scene

SPELLINGS = {"grey": "gray", "centre": "center", "upwards": "up", "downwards": "down"}


def caption(scene: Scene) -> str:
    """All that is seen: "A large red circle at the top left on a white background."."""
    words = f"A {scene.size} {scene.colour} {scene.shape} at the {scene.place}"
    words += f" on a {scene.background} background"
    if scene.direction is not None:
        words += f" moving {scene.direction} {scene.speed}"
    return words + "."


def short_caption(scene: Scene) -> str:
    """Colour, shape and direction: "a red circle", "a red circle moving left"."""
    moving = f" moving {scene.direction}" if scene.direction is not None else ""
    return f"{_article(scene.colour)} {scene.colour} {scene.shape}{moving}"


def parse_prompt(text: str) -> dict[str, str]:
    """What a text asserts: attribute to value, only for the attributes that it names.

    Understands the captions above, parts of them in another order, and British spelling. Other
    words are passed over, so that {} means that the text says nothing about this world.

    Raises:
        ValueError: the text names two values of one attribute.
    """
    words = [SPELLINGS.get(word, word) for word in re.findall(r"[a-z]+", text.lower())]
    line = " ".join(words)
    asserted: dict[str, str] = {}
    for key, pattern in _PATTERNS.items():
        found = set(re.findall(pattern, line))
        if len(found) > 1:
            raise ValueError(
                f"prompt {text!r} names more than one {key}: {', '.join(sorted(found))}"
            )
        if found:
            asserted[key] = found.pop()
    return asserted


def _one_of(names: Iterable[str]) -> str:
    return "|".join(names)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


_PATTERNS = {
    "colour": rf"\b({_one_of(COLOURS)})\b",
    "shape": rf"\b({_one_of(SHAPES)})s?\b",
    "size": rf"\b({_one_of(SIZES)})\b",
    "place": r"\b(?:at|in|on|from) the ((?:top|bottom)(?: left| right)?|left|right|center)\b",
    "background": rf"\b({_one_of(BACKGROUNDS)}) background\b",
    "direction": rf"\b(?:moving|moves) ({_one_of(DIRECTIONS)})\b",
    "speed": rf"\b({_one_of(SPEEDS)})\b",
}
