# SPDX-License-Identifier: Apache-2.0
"""Conditions in words, against what they mean."""

import pytest

from diffnext.data.tools.conditions import all_hold, parse_condition

FIELDS = {
    "shape": ["INT64"],
    "moments": "BYTES",
    "caption": "STRING",
    "captions": ["STRING"],
    "label": "INT64",
    "flow": "FLOAT32",
}
RECORD = {
    "caption": "A red cat, asleep",
    "captions": ["A red cat", "one cat"],
    "label": 2**60 + 1,
    "flow": 2.5,
    "shape": "8x64x32",
    "frames": 1,
    "height": 64,
    "width": 32,
    "source": "/data/cats/a.png",
    "record": 7,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("flow>2.5", False),
        ("flow >= 2.5", True),
        ("flow<3", True),
        ("flow<=2.4", False),
        (f"label={2**60 + 1}", True),
        (f"label={2**60}", False),  # which is the same as a float
        (f"label=1,2,{2**60 + 1}", True),
        ("label!=1,2", True),
        ("caption~red (cat|dog)", True),
        ("caption~^red", False),
        ("caption!~dog", True),
        ("caption=A red*", True),
        ("caption=a red*", False),
        ("captions~^one", True),
        ("captions=one cat", True),
        ("captions!=one cat", False),
        ("shape=8x64x32", True),
        ("shape=8x64x64,8x32x64", False),
        ("height>width", None),
        ("height>=64", True),
        ("frames=1", True),
        ("source=*/cats/*", True),
        ("source!=*/cats/*", False),
        ("source~png$", True),
        ("record<7", False),
    ],
)
def test_what_a_condition_means(text, holds):
    if holds is None:
        with pytest.raises(ValueError, match="is no number"):
            parse_condition(text, FIELDS)
        return
    assert all_hold([parse_condition(text, FIELDS)], RECORD) == holds


def test_all_must_hold():
    conditions = [parse_condition(text, FIELDS) for text in ("flow>2", "label=3")]
    assert not all_hold(conditions, RECORD)
    assert all_hold(conditions[:1], RECORD)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flow", "NAME OPERATOR VALUE"),
        ("flows>2", "no name 'flows'.*'flow'"),
        ("moments=2", "no name 'moments'"),
        ("flow>x", "'x' is no number"),
        ("caption>3", "caption is no number"),
        ("flow~3", "is for text"),
        ("caption~(", "no regular expression"),
        ("__import__('os')=1", "NAME OPERATOR VALUE"),
    ],
)
def test_what_is_none(text, message):
    with pytest.raises(ValueError, match=message):
        parse_condition(text, FIELDS)


def test_shapes_of_records_without_one():
    with pytest.raises(ValueError, match="do not say their shape"):
        parse_condition("height=2", {"label": "INT64"})
