# SPDX-License-Identifier: Apache-2.0
"""The file that says what records were made of is written anew where it must be, and only there."""

import json

import pytest

from diffnext.data.journal import JOURNAL, Entry, Journal, write_entries
from diffnext.data.views import View

ENTRIES = [
    Entry(f"{n:064x}", f"/caf\xe9/{n}.png", n, n, f"{n + 9:064x}", View(32, 48)) for n in range(3)
]


@pytest.fixture
def file(tmp_path):
    write_entries(str(tmp_path / JOURNAL), ENTRIES)
    return tmp_path / JOURNAL


def test_a_file_that_says_the_records_stays_as_it_is(file):
    before = file.stat().st_ino
    journal = Journal(str(file.parent), 3)
    journal.rewrite()
    journal.append(ENTRIES[:1])
    journal.rewrite()
    assert file.stat().st_ino == before
    assert list(Journal(str(file.parent), 4).entries) == [*ENTRIES, ENTRIES[0]]


@pytest.mark.parametrize("ending", ["", '{"key": "k', "\n"])
def test_lines_without_records_and_torn_ones_are_cut_off(file, ending):
    whole = file.read_text()
    file.write_text(whole.rstrip("\n") + ending if ending != "\n" else whole + whole)
    journal = Journal(str(file.parent), 3 if ending in ("", "\n") else 2)
    journal.rewrite()
    assert file.read_text().splitlines() == whole.splitlines()[: len(journal.entries)]
    assert file.read_text().endswith("\n")


def test_moved_files_and_lines_without_views_are_written(file):
    journal = Journal(str(file.parent), 3)
    journal.move(1, "/other.png", (5, 6))
    journal.rewrite()
    assert Journal(str(file.parent), 3).entries[1].path == "/other.png"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**line, "view": None}) + "\n" for line in lines))
    Journal(str(file.parent), 3, View(64, 64)).rewrite()
    assert {entry.view for entry in Journal(str(file.parent), 3).entries} == {View(64, 64)}


def test_how_far_the_reading_is_is_shown(file):
    seen = []

    def progress(lines, total, name):
        seen.append((total, name))
        yield from lines

    assert list(Journal(str(file.parent), 2, progress=progress).entries) == ENTRIES[:2]
    assert seen == [(2, "journal")]
