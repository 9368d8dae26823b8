# SPDX-License-Identifier: Apache-2.0
"""How work is divided: all of it, in its order, into few units that are small at the end."""

import math

from hypothesis import given
from hypothesis import strategies as st

from diffnext.data import shared_work
from diffnext.data.shared_work import in_units


@given(st.lists(st.integers(0, 50)), st.integers(0, 60))
def test_each_item_is_in_one_unit_and_no_unit_is_larger_than_its_share(costs, least):
    items, left = list(enumerate(costs)), sum(costs)
    units = list(in_units(items, lambda item: item[1], least))
    assert [item for unit in units for item in unit] == items
    for unit in units:
        size = sum(cost for _, cost in unit)
        assert size <= max(least, left // shared_work.SHARE) or len(unit) == 1
        left -= size


def test_the_number_of_units_grows_with_the_logarithm_of_the_work(monkeypatch):
    """n shares of what is left each, until that is no more than the least: n (1 + ln (all / (n least)))."""
    monkeypatch.setattr(shared_work, "SHARE", 50)
    for count in (2_000, 20_000):
        sizes = [len(unit) for unit in in_units(range(count), lambda item: 1, 4)]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] == count // 50
        assert abs(len(sizes) / (50 * (1 + math.log(count / (50 * 4)))) - 1) < 0.15
