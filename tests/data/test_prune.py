# SPDX-License-Identifier: Apache-2.0
"""Records that are dropped from a cache: whichever step is the last, the old cache or the new is left."""

import json
import os
import shutil

import pytest

from diffnext.data import prune as pruning
from diffnext.data.cache import build
from diffnext.data.cache_folder import open_journal
from diffnext.data.prune import is_pending, prune, recover
from diffnext.data.records import RecordError, folder_writer, open_reader
from diffnext.data.records.folder_reader import FolderReader
from tests.data.cache_builds import encode, plan_for, records, run, write_photos, write_picture
from tests.data.steps import Killed, Steps


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Seven records in shards of two."""
    made = folder_writer.FolderWriter.__init__

    def small(self, *args, **options):
        made(self, *args, **{**options, "max_examples": 2})

    monkeypatch.setattr(folder_writer.FolderWriter, "__init__", small)
    run(write_photos(tmp_path / "photos"), tmp_path / "cache")
    return str(tmp_path / "cache")


def captions(folder):
    """Captions by codewithgpu, and the names in the journal: both tell the records in order."""
    entries = open_journal(folder)[0].entries
    names = [os.path.basename(entry.path).removesuffix(".png") for entry in entries]
    found = list(records(folder))
    assert found == [f"Picture {name}. It is noise." for name in names]
    return names


def drop(folder, *numbers):
    prune(folder, set(numbers), open_journal(folder)[0].entries)


def test_records_are_dropped_and_the_others_keep_their_bytes(cache, tmp_path):
    before = records(cache)
    drop(cache, 1, 6)
    assert sorted(captions(cache)) == ["p0", "p2", "p3", "p4", "p5"]
    after = records(cache)
    assert all((after[caption] == before[caption]).all() for caption in after)
    assert open_reader(cache).checked == 5
    assert sorted(name for name in os.listdir(cache) if name.endswith(".index")) == [
        "00001.index",
        "00002.index",
        "00004.index",
    ]
    assert run(tmp_path / "photos", cache).written == 2
    assert sorted(captions(cache)) == [f"p{number}" for number in range(7)]


def test_readers_of_what_is_left_know_its_shapes(cache, monkeypatch):
    drop(cache, 1, 6)
    monkeypatch.setattr(FolderReader, "_scan_shapes", None)  # reads all records
    assert open_reader(cache).shapes() == ([(8, 4, 6)], None)


def test_damage_elsewhere_does_not_stop_it(cache):
    entries = open_journal(cache)[0].entries
    os.truncate(f"{cache}/00003.data", 10)
    prune(cache, {1}, entries)
    assert not is_pending(cache)
    with pytest.raises(RecordError, match=r"00003\.data has 10 bytes"):
        open_reader(cache)


def test_orders_of_others_reach_no_other_folder(cache, tmp_path):
    shutil.copytree(cache, tmp_path / "other")
    names = sorted(os.listdir(tmp_path / "other"))
    os.mkdir(f"{cache}/diffnext.prune")
    metadata = json.loads(open(f"{cache}/METADATA").read())
    orders = {"remove": ["../other/00000"], "number": 4, "digits": 5, "metadata": metadata}
    with open(f"{cache}/diffnext.prune/orders.json", "w") as stream:
        json.dump({**orders, "metadata": {**metadata, "entries": 5}}, stream)
    recover(cache)
    assert sorted(os.listdir(tmp_path / "other")) == names


def test_all_records_may_go(cache, tmp_path):
    drop(cache, *range(7))
    assert len(open_reader(cache)) == 0
    assert run(tmp_path / "photos", cache).written == 7


def test_whichever_step_is_the_last_the_old_or_the_new_cache_is_left(cache, tmp_path, monkeypatch):
    old, folder, outcomes = captions(cache), str(tmp_path / "copy"), []
    steps = Steps(monkeypatch, (os, "replace"), (os, "unlink"), (pruning, "write_json"))
    shutil.copytree(cache, folder)
    while steps.kill(len(outcomes), drop, folder, 1, 6):
        decided = is_pending(folder)
        recover(folder)
        names = captions(folder)
        assert names in (old, ["p2", "p3", "p4", "p5", "p0"])
        assert len(names) == 5 or not decided
        assert pruning.SIDE not in os.listdir(folder)
        outcomes.append(len(names) == 5)
        shutil.rmtree(folder)
        shutil.copytree(cache, folder)
    assert outcomes == sorted(outcomes)
    assert 5 < outcomes.count(True) and 1 < outcomes.count(False)


def test_between_the_steps_readers_find_whole_records_and_a_warning(cache, monkeypatch):
    before = records(cache)
    swap = pruning._swap_shards

    def stopped(*args):
        swap(*args)
        raise Killed

    monkeypatch.setattr(pruning, "_swap_shards", stopped)
    with pytest.raises(Killed):
        drop(cache, 0, 1, 2)
    with pytest.warns(UserWarning, match="its writer did not finish"):
        reader = open_reader(cache)
    for number in range(len(reader)):
        record = reader[number]
        assert bytes(record["moments"]) == before[record["caption"]].tobytes()
    with pytest.raises(ValueError, match="was interrupted while records were dropped"):
        open_journal(cache)


def test_stale_records_of_a_plan(cache, tmp_path):
    photos = tmp_path / "photos"
    write_picture(photos, "p3", 99)
    (photos / "p5.txt").write_text("Another caption.")
    (photos / "p6.png").unlink()
    plan = plan_for(photos, cache)
    assert sorted(plan.stale.items()) == [
        (3, "the file was edited"),
        (5, "a caption, label or flow was changed"),
        (6, "no longer in the input"),
    ]
    build(plan, encode)
    plan.drop_stale()
    assert len(plan.journal.entries) == len(open_reader(cache)) == 6
    plan = plan_for(photos, cache)
    assert (plan.present, plan.items, plan.stale) == (6, [], {})
