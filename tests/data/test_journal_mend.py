# SPDX-License-Identifier: Apache-2.0
"""Damaged lines cost the records that they speak of, which the next build makes again, and no others."""

import shutil
from itertools import count

import numpy as np
import pytest

from diffnext.data.cache_ranks import settle
from diffnext.data.journal import JOURNAL, DamagedJournal
from diffnext.data.journal_mend import drop_unknown
from diffnext.data.prune import recover
from diffnext.data.records import open_reader
from diffnext.data.records.lock import FolderLock
from tests.data.cache_builds import expected, interrupting, plan_for, records, run
from tests.faults.test_tools import dies


def mend(cache):
    with FolderLock(cache) as lock:
        return drop_unknown(str(cache), lock)


def flipped(line, place, bit=1):
    """A line with another bit at a place; that of -1 ends it."""
    changed = bytearray(line)
    changed[place] ^= bit
    return bytes(changed)


def damage(cache, change):
    """Give the journal other lines, by a function of those that it has."""
    path = cache / JOURNAL
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def damage_second(cache):
    damage(cache, lambda lines: [lines[0], flipped(lines[1], 30, 0x80), *lines[2:]])


def assert_all_there(photos, cache, written):
    assert run(photos, cache).written == written
    found, wanted = records(cache), expected(photos)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[caption], wanted[caption]) for caption in wanted)
    plan = plan_for(photos, cache)
    assert (plan.present, plan.items, plan.stale) == (7, [], {})


@pytest.mark.parametrize(
    ("change", "dropped"),
    [
        (lambda lines: [*lines[:3], flipped(lines[3], 0), *lines[4:]], [3]),
        (lambda lines: [flipped(lines[0], 12, 0x40), *lines[1:6], flipped(lines[6], -2)], [0, 6]),
        (lambda lines: [*lines[:6], lines[6][:99]], [6]),
        # a line less, and one more
        (
            lambda lines: [
                *(*lines[:1], flipped(lines[1], -1), *lines[2:4]),
                *(lines[4][:99] + b"\n", lines[4][99:], *lines[5:]),
            ],
            [1, 2, 3, 4],
        ),
    ],
)
def test_the_records_of_damaged_lines_are_made_again(photos, tmp_path, change, dropped):
    cache = tmp_path / "cache"
    run(photos, cache)
    damage(cache, change)
    with pytest.raises(DamagedJournal, match=f"its line {dropped[0] + 1} is damaged; a build"):
        run(photos, cache)
    assert mend(cache) == dropped
    assert_all_there(photos, cache, len(dropped))


def unfinished(photos, cache):
    """Four records, and the lines of six."""
    with pytest.raises(KeyboardInterrupt):
        run(photos, cache, encoder=interrupting(2), batch_size=2)
    assert len((cache / JOURNAL).read_bytes().splitlines()) == 6


@pytest.mark.filterwarnings("ignore:.*was not finished")
def test_a_build_that_was_killed_goes_on(photos, tmp_path):
    cache = tmp_path / "cache"
    unfinished(photos, cache)
    damage_second(cache)
    assert mend(cache) == [1] and len(open_reader(cache)) == 3
    assert_all_there(photos, cache, 4)


@pytest.mark.filterwarnings("ignore:.*was not finished")
@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0], flipped(lines[1], -1), *lines[2:]],
        lambda lines: [lines[0], lines[1][:200] + bytes(120) + lines[2][120:], *lines[3:]],
    ],
)
def test_where_lines_may_have_been_lost_nothing_is_guessed(photos, tmp_path, change):
    """There may be more lines than records, so it is not known how many there were."""
    cache = tmp_path / "cache"
    unfinished(photos, cache)
    damage(cache, change)
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    with pytest.raises(ValueError, match=r"which of the others .* is not sure; put the file back"):
        mend(cache)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before


@pytest.mark.filterwarnings("ignore:.*was not finished")
def test_it_may_be_killed_at_any_step(photos, tmp_path):
    """Of which one in four is tried."""
    unfinished(photos, tmp_path / "begun")
    damage_second(tmp_path / "begun")
    for step in count(0, 4):
        cache = shutil.copytree(tmp_path / "begun", tmp_path / str(step))
        if not dies(step, lambda cache=cache: mend(cache)):
            break
        settle_down(cache)
        assert_all_there(photos, cache, 4)
    assert step > 12


def settle_down(cache):
    """What a build does first, until it has a plan."""
    recover(str(cache))
    settle(str(cache))
    if any(line[30] & 0x80 for line in (cache / JOURNAL).read_bytes().splitlines()):
        mend(cache)
