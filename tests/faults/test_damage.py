# SPDX-License-Identifier: Apache-2.0
"""Files of a cache that are lost or damaged: what reading says, and what the next build does."""

import json
import os
import re
import shutil
import warnings

import pytest

from diffnext.data.choices import Choices
from diffnext.data.records import open_reader
from diffnext.data.records.layout import JOURNAL
from diffnext.data.tools.verify import check
from tests.data.cache_builds import (
    assert_complete,
    encode,
    plan_for,
    run,
    write_photos,
    write_picture,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished cache of seven records, and its photos beside it."""
    folder = tmp_path_factory.mktemp("damage")
    run(write_photos(folder / "photos"), folder / "cache")
    plan_for(
        folder / "photos", folder / "cache", remember=True
    )  # so that there is all there can be
    return folder


@pytest.fixture
def cache(whole, tmp_path):
    shutil.copytree(whole / "cache", tmp_path / "cache")
    return tmp_path / "cache"


def remove(path):
    path.unlink()


def halve(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """One bit in the middle of the moments of the first record."""
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)


def no_text(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\xff" + data[len(data) // 2 + 1 :])


TRUNCATED = (
    r"00000\.data has \d+ bytes, .*the shard is truncated \(4 records of it cannot be read\)"
)
LOST = "METADATA says 7 records, the index files list {}: one was lost or added"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("00000.data", halve, TRUNCATED),
        ("00000.data", remove, r"00000\.data is missing, its index is there"),
        ("00000.index", remove, LOST.format(0)),
        ("00000.index", halve, LOST.format(4)),
        ("METADATA", halve, "METADATA is not JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_by_readers_and_builds(whole, cache, name, damage, message):
    damage(cache / name)
    before = {path: path.read_bytes() for path in cache.iterdir()}
    with pytest.raises(ValueError, match=message):
        open_reader(cache)
    with pytest.raises(ValueError, match=message):
        run(whole / "photos", cache)
    assert {path: path.read_bytes() for path in cache.iterdir()} == before


@pytest.mark.parametrize("names", [["00001.index"], ["00001.index", "00001.data"], ["00000.index"]])
def test_no_record_gets_the_line_of_another_when_metadata_is_lost_too(tmp_path, names):
    """The lines behind a lost shard would name the wrong records, and its media never come back."""
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    photos.mkdir()
    for number in range(3):
        write_picture(photos, f"p{number}", number)
        run(photos, cache)  # each in a shard of its own
    for name in [*names, "METADATA"]:
        remove(cache / name)
    before = {path: path.read_bytes() for path in cache.iterdir()}
    with pytest.raises(ValueError, match=r"put it back from a copy, or choose another --output"):
        run(photos, cache)
    lost = check(str(cache)).problems[0].what
    assert re.search("it was lost, and more was; builds refuse .* put it back from a copy", lost)
    assert {path: path.read_bytes() for path in cache.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "diffnext.samples.jsonl",
            remove,
            r"holds 7 records, .* in it knows 0: .*the file was lost",
        ),
        ("diffnext.samples.jsonl", halve, r"holds 7 records, .* in it knows 3"),
        ("diffnext.json", remove, "holds records that this tool did not make"),
        ("diffnext.json", halve, r"diffnext\.json is not JSON"),
    ],
)
def test_without_what_made_them_records_are_read_and_nothing_is_added(
    whole, cache, name, damage, message
):
    damage(cache / name)
    assert [len(open_reader(cache)[number]["moments"]) for number in range(7)] == [384] * 7
    with pytest.raises(ValueError, match=message):
        run(whole / "photos", cache)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("METADATA", "METADATA is not JSON"),
        ("00000.index", r"00000\.index line"),
        ("diffnext.json", r"diffnext\.json is not JSON"),
        ("diffnext.samples.jsonl", r"samples\.jsonl in it knows 3: its line 4 is damaged; a "),
    ],
)
def test_a_byte_that_is_no_text_is_named(whole, cache, name, message):
    no_text(cache / name)
    with pytest.raises(ValueError, match=message):
        run(whole / "photos", cache)


@pytest.mark.parametrize("name", ["diffnext.index.bin", "diffnext.views.jsonl", "failures.jsonl"])
def test_a_byte_that_is_no_text_in_what_only_saves_time(whole, cache, name):
    failure = {"file": "a.png", "stage": "decode", "reason": "caf\xe9", "attempt": "1"}
    lines = [failure, [1], {**failure, "attempt": [1]}, {"name": "x"}]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (cache / "failures.jsonl").write_text(text, encoding="latin-1")
    no_text(cache / name)
    assert run(whole / "photos", cache).written == 0
    assert_complete(whole / "photos", cache)


def test_damaged_choices_are_not_taken_for_those_of_others(whole, cache):
    """Of two alike that cannot be used, the second is no more known than the first."""
    path = cache / "diffnext.views.jsonl"
    head, first, second, *rest = path.read_text().splitlines(keepends=True)
    bad = [json.loads(line) for line in (first, second)]
    for line in bad:
        line[3]["height"] = None
        line[3]["views"] = [None]
    lines = [json.dumps(bad[0]) + "\n", *rest, json.dumps(bad[1]) + "\n"]
    path.write_text("".join([head, *lines]))
    rules = plan_for(whole / "photos", cache).rules
    known = Choices(str(cache), rules, store=False)
    path, *stamp = bad[1][:3]
    assert known.get(path, tuple(stamp)) is None


def test_a_build_that_was_killed_when_all_its_records_counted_is_ended(whole, cache):
    """Of what was left to do, nothing stays undone, nor what said so."""
    names = sorted(os.listdir(cache))
    remove(cache / "diffnext.index.bin")
    features = json.loads((cache / "METADATA").read_text())["features"]
    (cache / JOURNAL).write_text(json.dumps({"features": features}))
    assert run(whole / "photos", cache).written == 0
    assert sorted(os.listdir(cache)) == names
    assert_complete(whole / "photos", cache)


@pytest.mark.parametrize("damage", [remove, halve])
@pytest.mark.parametrize("name", ["diffnext.index.bin", "diffnext.views.jsonl", "failures.jsonl"])
def test_what_only_saves_time_may_go(whole, cache, name, damage):
    damage(cache / name)
    assert run(whole / "photos", cache).written == 0
    assert_complete(whole / "photos", cache)
    assert open_reader(cache).checked == 7


def test_without_metadata_a_folder_is_one_that_was_not_finished(whole, cache):
    (cache / "METADATA").unlink()
    with pytest.warns(UserWarning, match="its writer did not finish. 7 complete records are read"):
        assert len(open_reader(cache)) == 7
    assert run(whole / "photos", cache).written == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_reader(cache)) == 7
    assert_complete(whole / "photos", cache)


@pytest.mark.parametrize(("damage", "left"), [(remove, 0), (halve, 3)])
def test_records_without_checksums_are_read_unverified(whole, cache, damage, left):
    damage(cache / "00000.check")
    (cache / "diffnext.index.bin").unlink()  # which holds them too
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert open_reader(cache).checked == left
    assert [f"{7 - left} records" in str(warning.message) for warning in caught] == [True] * (
        left > 0
    )
    assert run(whole / "photos", cache).written == 0
    assert_complete(whole / "photos", cache)


def test_a_flipped_bit_is_found_when_the_record_is_read(whole, cache):
    flip(cache / "00000.data")
    reader = open_reader(cache)
    with pytest.raises(
        ValueError, match=r"record 0 .* of .*p0\.png\) is damaged: its bytes have the"
    ):
        reader[0]
    assert len(reader[1]["moments"]) == 384
    assert run(whole / "photos", cache).written == 0  # a build reads no records


def test_an_unfinished_folder_without_its_list_of_fields(whole, tmp_path):
    """They are read off the first record."""
    calls = []

    def encoder(frames):
        calls.append(frames)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(frames)

    output = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        run(whole / "photos", output, encoder=encoder)
    (output / "diffnext.journal.json").unlink()
    assert run(whole / "photos", output).written == 1
    assert_complete(whole / "photos", output)


def test_another_autoencoder_is_refused_with_both_its_names(whole, cache):
    vae = {"class": "Stub", "weights_sha256": "abc"}
    with pytest.raises(ValueError) as caught:
        run(whole / "photos", cache, vae=vae)
    assert "  vae.weights_sha256: the cache has None, this build 'abc'" in str(caught.value)
    assert run(whole / "photos", cache).written == 0
