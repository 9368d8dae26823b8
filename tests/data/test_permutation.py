# SPDX-License-Identifier: Apache-2.0
"""The order of a set: each thing once, every order as likely as another."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffnext.data.permutation import permute


def whole(count: int, key: int) -> np.ndarray:
    return permute(np.arange(count), count, np.full(count, key))


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1))
def test_each_thing_once(count, key):
    assert np.array_equal(np.sort(whole(count, key)), np.arange(count))


@given(st.integers(1, 2**40), st.integers(0, 2**63 - 1), st.data())
def test_places_of_a_large_set_are_inside_and_differ(count, key, data):
    places = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=50))
    moved = permute(np.array(sorted(places)), count, np.full(len(places), key))
    assert len(set(moved.tolist())) == len(places)
    assert moved.min() >= 0 and moved.max() < count


def test_a_part_is_computed_as_the_whole():
    order = whole(1000, 5)
    assert np.array_equal(permute(np.arange(300, 320), 1000, np.full(20, 5)), order[300:320])


def test_every_place_may_have_its_own_key():
    mixed = permute(np.array([3, 3]), 1000, np.array([5, 6]))
    assert mixed.tolist() == [whole(1000, 5)[3], whole(1000, 6)[3]]


def test_the_order_is_fixed_for_all_time():
    """A saved position means nothing if this changes."""
    assert whole(10, 7).tolist() == [2, 5, 1, 9, 4, 3, 6, 7, 8, 0]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_all_orders_of_a_small_set_are_equally_likely(count):
    """Chi-squared over 20,000 keys; the bound is five standard deviations above its mean."""
    keys = np.arange(20000)
    columns = [permute(np.full(len(keys), place), count, keys) for place in range(count)]
    seen = Counter(zip(*(column.tolist() for column in columns), strict=True))
    freedom = math.factorial(count) - 1
    expected = len(keys) / (freedom + 1)
    assert len(seen) == freedom + 1
    chi2 = sum((n - expected) ** 2 / expected for n in seen.values())
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom)


def test_neighbours_part():
    """Mean distance of what were neighbours, against a third of the set for independent places."""
    order = whole(100_000, 1).astype(float)
    assert abs(np.abs(np.diff(order)).mean() / len(order) - 1 / 3) < 0.01
    assert abs(np.corrcoef(np.arange(len(order)), order)[0, 1]) < 0.02
