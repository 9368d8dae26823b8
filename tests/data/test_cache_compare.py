# SPDX-License-Identifier: Apache-2.0
"""Each record answers one sample, whoever asks in which order, and equal media cost no more than others."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from diffnext.data.cache_compare import GONE, Held, half
from diffnext.data.entries import Entries, Entry
from diffnext.data.lookup import Lookup
from diffnext.data.views import View


class Kept:
    """A journal without a file."""

    def __init__(self, entries):
        self.entries, self.moved = Entries(entries), 0

    def move(self, row, path, stamp):
        self.moved += (self.entries.path(row), self.entries.stamp(row)) != (path, stamp)
        self.entries.move(row, path, stamp)


def entry(key, file):
    return Entry(f"{key:02x}" * 32, f"/{file}", file, 7, f"{key % 2:02x}" * 32, View(8, 8))


PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20)


@settings(max_examples=40)
@given(PAIRS, PAIRS)
def test_there_is_a_record_for_as_many_samples_as_were_encoded(held, asked):
    journal = Kept([entry(*pair) for pair in held])
    records, free = Held(journal), Counter(key for key, _ in held)
    for key, file in asked:
        assert records.take(entry(key, file)) == (free[key] > 0)
        free[key] -= free[key] > 0
    stale = records.stale([], bytearray(), [])
    assert Counter(int(journal.entries.key(row)[:2], 16) for row in stale) == +free
    assert set(stale.values()) <= {GONE}


@settings(max_examples=40)
@given(PAIRS.flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs))))
def test_who_asks_again_gets_the_record_of_its_own_file(orders):
    held, asked = orders
    journal = Kept([entry(*pair) for pair in held])
    records = Held(journal)
    assert all(records.take(entry(*pair)) for pair in asked)
    assert journal.moved == 0


def test_equal_media_are_found_in_linear_time(monkeypatch):
    looked_at = []
    item = Lookup.item
    monkeypatch.setattr(Lookup, "item", lambda *args: looked_at.append(1) or item(*args))
    held = Held(Kept([entry(1, file) for file in range(500)]))
    assert all(held.take(entry(1, file)) for file in range(1000, 1500))  # all were moved
    assert not held.take(entry(1, 2000))
    assert len(looked_at) < 3 * 500


def test_a_file_that_may_be_known_is_told_by_its_size():
    held = Held(Kept([entry(1, 5), entry(3, 9)]))
    assert [held.may_hold((size, 0)) for size in (4, 5, 8, 9, 10)] == [0, 1, 0, 1, 0]
    assert held.content("/9", (9, 7)) == "01" * 32
    assert held.content("/9", (9, 8)) == held.content("/8", (9, 7)) == ""
    assert half("") == bytes(16)
