# SPDX-License-Identifier: Apache-2.0
"""Parts of several writers become one cache: each sample once, whichever step is the last one done."""

import json
import os
import shutil
import warnings
from itertools import count
from pathlib import Path

import pytest

from diffnext.data import cache_part, parts, worklist
from diffnext.data.cache_folder import open_journal
from diffnext.data.cache_part import Tools, take_part
from diffnext.data.cache_ranks import settle
from diffnext.data.journal import load_entries
from diffnext.data.ledger import LEDGER
from diffnext.data.parts import CLOSED, DAMAGED, close_part, join
from diffnext.data.records import open_reader
from diffnext.data.records.layout import SHARD, index_names
from tests.data.cache_builds import expected, interrupting, plan_for, records, run
from tests.data.steps import Killed, Steps


def quiet(text):
    """Nobody listens."""


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(cache_part, "POLL_S", 0.01)


@pytest.fixture
def begun(photos, tmp_path):
    """A cache of two records, and a work for the other five of which nobody took anything."""
    for number in range(2, 7):
        (photos / f"p{number}.png").rename(tmp_path / f"p{number}.png")
        (photos / f"p{number}.txt").rename(tmp_path / f"p{number}.txt")
    run(photos, tmp_path / "cache")
    for path in tmp_path.glob("p?.*"):
        path.rename(photos / path.name)
    work = begin(photos, tmp_path / "cache")
    assert work.samples == 5
    return work


def begin(photos, cache):
    """What a leader does before the work."""
    plan = plan_for(photos, cache)
    plan.begin()
    return worklist.create(plan, {}, leader="a test")


def write_part(work, *, batches=None, closed=True):
    """Take part alone, to the end or for some batches of two. Returns the folder of the part."""
    before = set(os.listdir(work.parts))
    encoder = interrupting(batches, Killed)
    tools = Tools(lambda: encoder, batch_size=2, workers=0)
    if batches is None:
        take_part(work, tools)
    else:
        with pytest.raises(Killed):
            take_part(work, tools)
    [name] = set(os.listdir(work.parts)) - before
    part = Path(work.parts, name)
    if not closed:
        (part / CLOSED).unlink()
    return part


def forget(work):
    """Nobody knows any more who had which unit: all is done again, as by a process taken for dead."""
    shutil.rmtree(Path(work.folder, "units"))


def assert_whole(folder, photos):
    """All seven, each once, as codewithgpu and the journal tell; all with their checksums."""
    found, wanted = records(folder), expected(photos)  # fails where a caption comes twice
    assert found.keys() == wanted.keys()
    assert all((found[caption] == wanted[caption]).all() for caption in wanted)
    names = [Path(entry.path).stem for entry in open_journal(str(folder))[0].entries]
    assert [f"Picture {name}. It is noise." for name in names] == list(found)
    assert open_reader(folder).checked == 7


def test_a_part_goes_on_where_another_was_left(begun, photos, tmp_path):
    first = write_part(begun, batches=1)
    second = write_part(begun)
    assert [len((part / "00000.index").read_text().splitlines()) for part in (first, second)] == [
        2,
        3,
    ]
    join(str(tmp_path / "cache"), begun, quiet)
    assert_whole(tmp_path / "cache", photos)
    assert not begun.is_there
    assert "ticket" not in (tmp_path / "cache" / "diffnext.samples.jsonl").read_text()


def test_closed_shards_are_moved_and_open_ones_copied(begun, photos, tmp_path):
    first, second = write_part(begun, batches=1, closed=False), write_part(begun)
    moved, copied = (os.stat(part / "00000.data").st_ino for part in (second, first))
    with open(first / "00000.data", "ab") as late, open(first / "00000.index", "ab") as index:
        join(str(tmp_path / "cache"), begun, quiet)
        late.write(b"what a process writes that only slept")
        index.write(b"1 1\n")
    assert_whole(tmp_path / "cache", photos)
    inodes = {os.stat(path).st_ino for path in (tmp_path / "cache").glob("*.data")}
    assert moved in inodes and copied not in inodes


@pytest.mark.parametrize("closed", [True, False])
def test_what_two_processes_wrote_comes_in_once(begun, photos, tmp_path, closed):
    write_part(begun, closed=closed)
    forget(begun)
    write_part(begun, closed=not closed)
    join(str(tmp_path / "cache"), begun, quiet)
    assert_whole(tmp_path / "cache", photos)
    assert len(index_names(str(tmp_path / "cache"))) == 2  # nothing had to be copied


def test_whichever_step_is_the_last_the_rest_is_done_later(begun, photos, tmp_path, monkeypatch):
    """With a part that is moved, one that is copied, and samples that are in both."""
    write_part(begun, batches=2, closed=False)
    forget(begun)
    write_part(begun)
    calls = [(os, "replace"), (os, "unlink"), (os, "rename"), (parts, "write_json")]
    steps = Steps(monkeypatch, *calls)
    folder, decided = tmp_path / "copy", []
    whole = names(tmp_path / "cache") - {worklist.WORK}
    for step in count():
        shutil.copytree(tmp_path / "cache", folder)
        work = worklist.find(str(folder))
        if not steps.kill(step, join, str(folder), work, quiet):
            break
        decided.append(worklist.is_joining(str(folder)))
        look(folder, photos)
        settle(str(folder), quiet)
        assert_whole(folder, photos)
        # no draft of a file, no work, no mark of an unfinished folder
        assert names(folder) == whole
        shutil.rmtree(folder)
    assert_whole(folder, photos)
    assert 1 < decided.count(False) and 8 < decided.count(True)


def names(folder):
    """What is in a cache besides its shards."""
    return {path.name for path in folder.iterdir() if not path.stem.isdigit()}


def look(folder, photos):
    """What a reader finds between two steps: fewer records than there are, but none that is wrong."""
    wanted = expected(photos)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = open_reader(folder)
    assert len(reader) >= 2
    for number in range(len(reader)):
        record = reader[number]
        assert bytes(record["moments"]) == wanted[record["caption"]].tobytes()
    if worklist.is_joining(str(folder)):
        with pytest.raises(ValueError, match="was interrupted while records were joined"):
            open_journal(str(folder))


def test_a_damaged_record_of_a_dead_process_is_encoded_again(begun, photos, tmp_path):
    part = write_part(begun, closed=False)
    with open(part / "00000.data", "r+b") as stream:
        stream.seek(60)
        byte = stream.read(1)
        stream.seek(60)
        stream.write(bytes([byte[0] ^ 1]))
    cache = tmp_path / "cache"
    join(str(cache), begun, quiet)
    assert len(open_reader(cache)) == 6
    [line] = map(json.loads, (cache / LEDGER).read_text().splitlines())
    assert line["stage"] == "join" and "is damaged: its bytes have the checksum" in line["reason"]
    assert run(photos, cache).written == 1
    assert_whole(cache, photos)


def tear_metadata(part):
    (part / "METADATA").write_text("{")


def lose_a_shard(part):
    (part / "00000.data").unlink()


def mistake_a_ticket(part):
    path = part / "diffnext.samples.jsonl"
    path.write_text(path.read_text().replace('"ticket": 0', '"ticket": 5000'))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (tear_metadata, "METADATA is not JSON"),
        (lose_a_shard, "00000.data is missing"),
        (mistake_a_ticket, "p2.png, which is not in the plan"),
    ],
)
def test_a_damaged_part_is_set_aside_and_encoded_again(begun, photos, tmp_path, damage, reason):
    first = write_part(begun, batches=1)
    write_part(begun)
    damage(first)
    told, cache = [], tmp_path / "cache"
    settle(str(cache), told.append)
    aside = cache / DAMAGED / first.name
    assert reason in told[1] and told[1].endswith(f"it is in {aside} now")
    assert (aside / "00000.index").exists()
    assert run(photos, cache).written == 2
    assert_whole(cache, photos)


def test_what_a_dead_process_wrote_and_cannot_be_read_is_encoded_by_others(begun, photos, tmp_path):
    """Its units were not done; the one that takes them over goes on without it."""
    first = write_part(begun, batches=1)
    shutil.rmtree(Path(begun.folder, "units", "done"))
    lose_a_shard(first)
    assert parts.recorded(begun, first.name) == frozenset()
    second = write_part(begun)
    assert len((second / "00000.index").read_text().splitlines()) == 5
    settle(str(tmp_path / "cache"), quiet)
    assert_whole(tmp_path / "cache", photos)


@pytest.mark.parametrize("move", [["../../other/00000", "00009"], ["side/00000", "../00009"]])
def test_a_join_that_means_other_files_is_refused(begun, tmp_path, move):
    """As a cache of somebody else might say."""
    (tmp_path / "cache" / "other").mkdir()
    shards = [tmp_path / "cache" / "other" / "00000.data", Path(begun.folder) / "side/00000.data"]
    for shard in shards:
        shard.parent.mkdir(exist_ok=True)
        shard.write_bytes(b"mine")
    orders = {"moves": [move], "metadata": {"entries": 0, "features": {}, "version": 1}}
    Path(begun.join_file).write_text(json.dumps(orders))
    with pytest.raises(ValueError, match=rf"join.json moves {move[0]} to {move[1]}, and not a"):
        join(str(tmp_path / "cache"), begun, quiet)
    assert all(shard.exists() for shard in shards)
    assert len(open_reader(tmp_path / "cache")) == 2


def test_without_its_index_a_join_is_over_all_the_same(begun, photos, tmp_path, monkeypatch):
    """It only spares readers time; where a shard of before is damaged, it cannot be made."""
    write_part(begun)
    cache = tmp_path / "cache"
    whole = (cache / "00000.data").read_bytes()
    os.truncate(cache / "00000.data", 5)
    monkeypatch.setattr(parts, "open_journal", lambda output: [Held(cache)])
    join(str(cache), begun, quiet)
    assert not (cache / worklist.WORK).exists()
    with pytest.raises(ValueError, match="the shard is truncated"):
        open_reader(cache)
    (cache / "00000.data").write_bytes(whole)
    assert_whole(cache, photos)


class Held:
    """The journal of a cache whose shards cannot be read."""

    def __init__(self, cache):
        self.entries = load_entries(str(cache / "diffnext.samples.jsonl"), 2)


def test_a_torn_end_is_left_out(begun, photos, tmp_path):
    """Of a part that was closed by mistake: the last line of the index, or of the journal, is torn."""
    part = write_part(begun)
    for ending in SHARD:
        path = part / f"00000{ending}"
        os.truncate(path, path.stat().st_size - 3)
    (part / "METADATA").unlink()
    cache = tmp_path / "cache"
    join(str(cache), begun, quiet)
    assert len(open_reader(cache)) == 6
    assert run(photos, cache).written == 1
    assert_whole(cache, photos)


def test_failures_of_all_processes_come_into_the_ledger(photos, tmp_path):
    """But not those of one that had bad luck with what another wrote."""
    whole = (photos / "p2.png").read_bytes()
    (photos / "p2.png").write_bytes(whole[: len(whole) // 2])
    cache = tmp_path / "cache"
    work = begin(photos, cache)
    (photos / "p5.png").rename(tmp_path / "away")
    write_part(work)
    (tmp_path / "away").rename(photos / "p5.png")
    results = {unit: work.leases("").result(unit) for unit in work.leases("").done()}
    assert sum(len(json.loads(result)) for result in results.values()) == 2
    forget(work)
    write_part(work)
    for unit, result in results.items():  # the one of bad luck wakes, and says its own last
        work.leases("").finish(unit, result)
    join(str(cache), work, quiet)
    [line] = map(json.loads, (cache / LEDGER).read_text().splitlines())
    assert Path(line["file"]).name == "p2.png" and line["stage"] == "decode"
    assert len(open_reader(cache)) == 6
    plan = plan_for(photos, cache)
    assert (plan.present, plan.failed_before, plan.items) == (6, 1, [])


def test_without_any_record_there_is_an_empty_cache(photos, tmp_path):
    for path in photos.glob("*.png"):
        path.write_bytes(path.read_bytes()[:200])
    cache = tmp_path / "cache"
    work = begin(photos, cache)
    write_part(work)
    join(str(cache), work, quiet)
    assert len(open_reader(cache)) == 0
    assert len((cache / LEDGER).read_text().splitlines()) == 7


def test_a_disk_without_room_for_the_mark_costs_a_copy_only(tmp_path):
    close_part(str(tmp_path / "nowhere"))
    assert os.listdir(tmp_path) == []
