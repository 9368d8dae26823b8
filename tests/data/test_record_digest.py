# SPDX-License-Identifier: Apache-2.0
"""Datasets of the same records are told from others, by their index alone."""

import shutil

import numpy as np
import pytest

from diffnext.data import record_digest
from diffnext.data.datasets import JoinedReader, SelectedReader
from diffnext.data.record_digest import digest_of
from diffnext.data.records import open_reader, open_writer
from tests.data.record_rows import FIELDS, record, write


def write_rows(path, numbers):
    with open_writer(path, FIELDS) as writer:
        for number in numbers:
            writer.write(record(number))
    return path


@pytest.fixture(params=[record_digest.WHOLE, 4])
def folder(request, monkeypatch, tmp_path):
    """Twelve records, all of whom are looked at, or two in the beginning and two in the end."""
    monkeypatch.setattr(record_digest, "WHOLE", request.param)
    monkeypatch.setattr(record_digest, "PIECE", 2)
    return write(tmp_path / "cache", 12)


def test_where_and_in_which_shards_they_lie_makes_no_difference(folder, tmp_path):
    wanted = digest_of(open_reader(folder))
    assert digest_of(open_reader(shutil.copytree(folder, tmp_path / "copy"))) == wanted
    other = write(tmp_path / "shards", 12, max_examples=5)
    assert len(list(other.glob("*.data"))) > 2 and digest_of(open_reader(other)) == wanted
    (folder / "diffnext.index.bin").unlink()
    reader = open_reader(folder)
    assert digest_of(reader) == wanted
    reader.save_index()
    assert digest_of(open_reader(folder)) == wanted


def test_one_left_out_and_one_added_of_its_shape_are_others(folder, tmp_path):
    found = digest_of(open_reader(folder))
    for name, numbers in {"end": [*range(1, 12), 12], "swap": [*range(1, 12), 0]}.items():
        other = digest_of(open_reader(write_rows(tmp_path / name, numbers)))
        assert other["sums"] != found["sums"]


def test_without_checksums_their_lengths_tell(folder, tmp_path):
    found = digest_of(open_reader(folder))
    for path in folder.glob("*.check"):
        path.unlink()
    assert digest_of(open_reader(folder)) == {"sizes": found["sizes"], "sums": None}
    other = write_rows(tmp_path / "other", [*range(1, 12), 0])
    assert digest_of(open_reader(other))["sizes"] != found["sizes"]


def test_those_that_are_selected_are_looked_at(folder, tmp_path):
    whole = open_reader(folder)
    part = digest_of(open_reader(write_rows(tmp_path / "part", range(3, 9))))
    assert digest_of(SelectedReader(whole, np.arange(3, 9))) == part
    twice = SelectedReader(SelectedReader(whole, np.arange(1, 10)), np.arange(2, 8))
    assert digest_of(twice) == part


def test_those_that_are_joined_are_looked_at_too(folder, tmp_path):
    whole, other = open_reader(folder), open_reader(write(tmp_path / "other", 12, first=9))
    joined = digest_of(JoinedReader(whole, other))
    assert joined == {**digest_of(whole), "joined": digest_of(other)}
    chosen = np.arange(4)
    wanted = digest_of(JoinedReader(SelectedReader(whole, chosen), SelectedReader(other, chosen)))
    assert digest_of(SelectedReader(JoinedReader(whole, other), chosen)) == wanted
