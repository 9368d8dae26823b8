# SPDX-License-Identifier: Apache-2.0
"""Entries in columns are those that went in, and items are found by their digests."""

import hashlib
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffnext.data import urls
from diffnext.data.entries import Entries, Entry
from diffnext.data.lookup import Lookup, stamp_digest
from diffnext.data.views import View

VIEWS = (View(8, 16), View(8, 16, (0, 2, 2)), View(8, 16, flip=True))
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
ENTRY = st.builds(
    Entry,
    HASHES,
    st.text() | st.just("caf\udce9"),
    NUMBERS,
    NUMBERS,
    HASHES,
    st.sampled_from(VIEWS),
)


@settings(max_examples=40)
@given(st.lists(ENTRY, max_size=8), st.data())
def test_entries_are_a_list_of_what_went_in(wanted, data):
    held = Entries(wanted)
    if wanted:
        row = data.draw(st.integers(0, len(wanted) - 1))
        held.move(row, "/elsewhere", (5, 6))
        wanted[row] = replace(wanted[row], path="/elsewhere", size=5, mtime_ns=6)
    length = data.draw(st.integers(0, len(wanted)))
    held.cut(length)
    wanted[length:] = data.draw(st.lists(ENTRY, max_size=2))
    held.extend(wanted[length:])
    assert list(held) == wanted and len(held) == len(wanted)
    assert held[-1:] == wanted[-1:]
    assert [held.key(row) for row in range(len(held))] == [entry.key for entry in wanted]
    assert held.keys().hex() == "".join(entry.key[:32] for entry in wanted)
    assert list(held.views()) == [entry.view for entry in wanted]
    assert held.sizes().tolist() == sorted({entry.size for entry in wanted})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "abcd"}, r"abcd and .* are no two sha256"),
        ({"content": "xy"}, "hexadecimal"),
        ({"size": 2**63}, "beyond the range of int64"),
    ],
)
def test_of_what_is_no_entry_nothing_is_added(change, words):
    sound = Entry("00" * 32, "/a", 0, 0, "00" * 32, VIEWS[0])
    held = Entries([sound])
    with pytest.raises(ValueError, match=words):
        held.append(replace(sound, **change))
    held.append(sound)
    assert list(held) == [sound, sound]


def test_a_file_of_the_far_future_has_a_time(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    os.utime(tmp_path / "a.png", (1.2e10, 1.2e10))  # in 2350; not every file system takes it
    size, mtime_ns = urls.stamp(str(tmp_path / "a.png"))
    assert (size, mtime_ns) <= (1, 2**63 - 1)


@given(st.lists(st.sampled_from([bytes(16), b"\1" + bytes(15), b"\1" * 16, b"\2" * 16])))
def test_all_items_of_a_digest_are_found_in_their_order(digests):
    lookup = Lookup(b"".join(digests))
    for digest in (bytes(16), b"\1" + bytes(15), b"\1" * 16, b"\2" * 16, b"\3" * 16):
        found = [lookup.item(place) for place in lookup.find(digest)]
        assert found == [item for item, held in enumerate(digests) if held == digest]


def test_a_file_is_told_by_its_path_size_and_time():
    files = [("/a", (1, 2)), ("/b", (1, 2)), ("/a", (1, 3)), ("2 /a", (1, 1)), ("/a\udce9", (1, 2))]
    assert len({stamp_digest(*file) for file in files}) == len(files)
    assert stamp_digest("/a", (1, 2)) == hashlib.blake2b(b"1 2 /a", digest_size=16).digest()
