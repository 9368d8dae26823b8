# SPDX-License-Identifier: Apache-2.0
"""Records in groups of one shape."""

from __future__ import annotations

import numpy as np
import pytest

from diffnext.data.buckets import group
from tests.data.toy_reader import ToyReader

WIDE, TALL, VIDEO = (4, 2, 3), (4, 3, 2), (4, 5, 2, 3)


def test_one_shape_is_one_bucket_without_a_table():
    (bucket,) = group([ToyReader([WIDE] * 5)])
    assert bucket.shape == (4, 1, 2, 3) and bucket.take == 5
    assert bucket.parts[0].members is None
    assert bucket.parts[0].records(np.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_shapes_are_separated_and_sorted():
    buckets = group([ToyReader([TALL, WIDE, VIDEO, WIDE, TALL])])
    assert [bucket.shape for bucket in buckets] == [(4, 1, 2, 3), (4, 1, 3, 2), (4, 5, 2, 3)]
    members = [bucket.parts[0].records(np.arange(bucket.take)).tolist() for bucket in buckets]
    assert members == [[1, 3], [0, 4], [2]]


def test_datasets_share_a_bucket_and_are_counted_through():
    buckets = group([ToyReader([WIDE, TALL]), ToyReader([TALL, TALL])], [1, 2.5])
    tall = buckets[1]
    assert [(p.start, p.count, p.take) for p in tall.parts] == [(0, 1, 1), (2, 2, 5)]
    assert tall.parts[1].records(np.array([1, 0])).tolist() == [3, 2]


def test_a_weight_that_rounding_changes_is_told(caplog):
    shapes = [(4, 2, 2 + number) for number in range(20)] * 3
    assert sum(bucket.take for bucket in group([ToyReader(shapes)], [0.1])) == 20
    assert "toy has weight 0.1 and passes 0.333 times in an epoch" in caplog.text
    caplog.clear()
    assert sum(bucket.take for bucket in group([ToyReader(shapes)], [1])) == 60
    assert caplog.text == ""


def test_a_picture_and_a_video_of_one_frame_share_a_bucket():
    (bucket,) = group([ToyReader([(4, 2, 3), (4, 1, 2, 3), (4, 2, 3)])])
    assert sorted(np.concatenate([p.records(np.arange(p.count)) for p in bucket.parts])) == [
        0,
        1,
        2,
    ]


@pytest.mark.parametrize("weight", [0, -1, float("nan")])
def test_weights_are_above_zero(weight):
    with pytest.raises(ValueError, match="toy has 1 records and weight"):
        group([ToyReader([WIDE])], [weight])


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="toy has 0 records"):
        group([ToyReader([])])
