# SPDX-License-Identifier: Apache-2.0
"""Whole builds with a stand-in for the autoencoder: what is written, what not, what a second run does."""

import json

import numpy as np
import pytest

from diffnext.data import media
from diffnext.data.journal import JOURNAL
from diffnext.data.records import open_reader
from tests.data.cache_builds import (
    VIEW,
    assert_complete,
    encode,
    run,
    write_photos,
    write_picture,
)
from tests.data.clips import package_file


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


def test_records_hold_the_moments_and_captions_of_every_picture(photos, tmp_path):
    report = run(photos, tmp_path / "cache")
    assert (report.written, report.failures) == (7, [])
    assert_complete(photos, tmp_path / "cache")
    reader = open_reader(tmp_path / "cache")
    assert reader[0]["shape"] == [8, 4, 6]
    assert reader[0]["text"] == ""


def test_a_real_photograph_passes_through(tmp_path):
    path = package_file("skimage", "data/astronaut.png")
    manifest = tmp_path / "list.jsonl"
    row = {"path": path, "caption": "An astronaut. She smiles.", "text": "astronaut", "label": 7}
    manifest.write_text(json.dumps(row))
    assert run(manifest, tmp_path / "cache").written == 1
    record = open_reader(tmp_path / "cache")[0]
    moments = np.frombuffer(record["moments"], np.float16).reshape(record["shape"])
    np.testing.assert_array_equal(
        moments, encode(media.read(media.probe(path), [VIEW])[0][None])[0]
    )
    assert (record["caption"], record["text"], record["label"]) == (row["caption"], "astronaut", 7)


def test_again_nothing_is_encoded(photos, tmp_path):
    run(photos, tmp_path / "cache")
    before = {p.name: p.read_bytes() for p in (tmp_path / "cache").iterdir()}

    def never(frames):
        raise AssertionError("nothing is left to encode")

    assert run(photos, tmp_path / "cache", encoder=never).written == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "cache").iterdir()} == before


def test_a_new_file_is_appended(photos, tmp_path):
    run(photos, tmp_path / "cache")
    write_picture(photos, "p9", 9)
    assert run(photos, tmp_path / "cache").written == 1
    assert_complete(photos, tmp_path / "cache")


def test_workers_give_the_records_that_one_process_gives(photos, tmp_path):
    """The same bytes in the same order, though the workers come to an end in another one."""
    run(photos, tmp_path / "inline", workers=0)
    run(photos, tmp_path / "workers", workers=2)
    for name in ("00000.data", "00000.index", JOURNAL):
        assert (tmp_path / "workers" / name).read_bytes() == (
            tmp_path / "inline" / name
        ).read_bytes()
