# SPDX-License-Identifier: Apache-2.0
"""What is looked at before a run begins."""

import pytest

from diffnext.data.records import DamagedRecord
from diffnext.engine.check_data import LOOKED_AT, look
from tests.data.toy_reader import ToyReader

SHAPES = [(4, 2, 2)] * 20


def test_damaged_records_are_left_to_the_loader_which_may_skip_them():
    assert [r["caption"] for r in look(ToyReader(SHAPES))][::7] == ["toy 0", "toy 19"]
    records = look(ToyReader(SHAPES, damaged=(0, 19)))
    assert len(records) == LOOKED_AT - 2 and records[0]["caption"] != "toy 0"
    with pytest.raises(DamagedRecord, match="toy record 19 is damaged"):
        look(ToyReader(SHAPES, damaged=range(20)))


def test_other_errors_are_raised():
    with pytest.raises(OSError, match="cannot read toy record 0"):
        look(ToyReader(SHAPES, bad=(0,)))
