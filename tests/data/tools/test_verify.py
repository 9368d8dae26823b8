# SPDX-License-Identifier: Apache-2.0
"""Damage of every kind is found and named; repair gives back the cache as it was."""

import json
import os
from functools import partial
from itertools import count

import numpy as np
import pytest

from diffnext.cli import main
from diffnext.data.journal import JOURNAL, Journal
from diffnext.data.prune import recover
from diffnext.data.records import open_reader
from diffnext.data.records.files import Files
from diffnext.data.records.index import SIDECAR
from diffnext.data.tools import repair
from diffnext.data.tools.remake import Remedy
from diffnext.data.tools.verify import check
from tests.data.cache_builds import LATENTS, encode, run, write_photos, write_picture
from tests.data.steps import Steps
from tests.data.tools.small import copy, equal, flip_byte, records, write_records


def place(cache, row):
    """Byte at which a record begins."""
    reader = open_reader(cache)
    return int(reader.index.offset[row])


def parts(report):
    return [(problem.part, problem.record) for problem in report.problems]


def entries(path):
    return Journal(path, len(open_reader(path))).entries


def mend(path, report, **options):
    remedy = Remedy(lambda: encode, LATENTS, workers=0)
    return repair.repair(str(path), report.damaged, **{"remedy": remedy, **options})


def assert_as_built(path, cache):
    """The same records, each with its line of the journal; in any order."""
    assert check(str(path)).problems == []
    found = {e.key: r for e, r in zip(entries(path), records(path), strict=True)}
    wanted = {e.key: r for e, r in zip(entries(cache), records(cache), strict=True)}
    assert found.keys() == wanted.keys()
    assert all(equal([found[key]], [wanted[key]]) for key in wanted)


def test_wrong_checksums_beside_a_damaged_record_cost_no_sound_one(tmp_path):
    rows = [{"moments": np.full((2, 2, 2), n), "label": n} for n in range(4)]
    path = write_records(tmp_path / "shards", rows, max_examples=2)
    open_reader(path).save_index()
    flip_byte(path / "00000.data", 30)
    flip_byte(path / "00001.check", 3)
    assert parts(check(str(path))) == [("checksums", -1), ("record", 0)]
    assert main(["cache", "verify", str(path), "--repair", "--drop"]) == 0
    assert check(str(path)).problems == []
    assert [record["label"] for record in records(path)] == [2, 3, 1]


def test_a_sound_cache(cache, capsys):
    assert main(["cache", "verify", str(cache)]) == 0
    assert "7 records, 0 damaged, 0 other problems" in capsys.readouterr().out


def test_a_flipped_byte_is_named(cache, tmp_path, capsys):
    broken = copy(cache, tmp_path / "c")
    flip_byte(broken / "00000.data", place(cache, 4) + 100)
    assert main(["cache", "verify", str(broken)]) == 1
    shown = capsys.readouterr().out
    assert "00000.data record 4" in shown and "p4.png" in shown and entries(cache)[4].key in shown
    assert "--repair --drop drops" in shown
    words = ["cache", "filter", str(broken), "--where", "record>0", "--output", str(tmp_path / "o")]
    assert main(words) == 2
    assert "p4.png" in (shown := capsys.readouterr().err) and "`diffnext cache verify`" in shown
    assert main(["cache", "verify", str(broken), "--json"]) == 1
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["part"], problem["record"]) == ("record", 4)


def test_a_failing_disk_is_damage(cache, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Files, "read", fail)
    problems = check(str(cache)).problems
    assert [(p.record, p.what) for p in problems] == [
        (i, "[Errno 5] Input/output error") for i in range(7)
    ]


def shorten(path, cut):
    with open(path, "r+b") as stream:
        stream.truncate(cut)


DAMAGE = {
    "a byte": (lambda c: flip_byte(c / "00000.data", place(c, 2) + 90), [2]),
    "two bytes": (
        lambda c: [flip_byte(c / "00000.data", place(c, n) + 90) for n in (0, 6)],
        [0, 6],
    ),
    "a short shard": (lambda c: shorten(c / "00000.data", place(c, 5) + 50), [5, 6]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_repair_gives_back_what_was(photos, cache, tmp_path, kind):
    broken = copy(cache, tmp_path / "c")
    damage, rows = DAMAGE[kind]
    damage(broken)
    report = check(str(broken))
    assert report.damaged == rows
    if kind == "a short shard":  # the captions of what is not there have to come from elsewhere
        assert set(mend(broken, report).failed) == set(rows)
        assert check(str(broken)).damaged == rows  # nothing was changed
        from diffnext.data.sources import scan

        sources = {s.path: s for s in scan(str(photos)).sources}
        from diffnext.data.record_fields import complete

        filled = complete(list(sources.values()), ["caption", "text"], (), [])
        remedy = Remedy(lambda: encode, LATENTS, {s.path: s for s in filled}, workers=0)
        outcome = mend(broken, report, remedy=remedy)
    else:
        outcome = mend(broken, report)
    assert (outcome.mended, outcome.failed) == (rows, {})
    assert records_of_files(broken) == records_of_files(cache)


def test_moments_with_other_last_digits_are_taken_too(cache, tmp_path):
    """As another device gives them: the record cannot go where it was under the checksum of before."""
    broken = copy(cache, tmp_path / "c")
    flip_byte(broken / "00000.data", place(cache, 2) + 90)
    flip_byte(broken / "00000.data", place(cache, 5) + 90)
    calls = count()

    def drifting(frames):
        return encode(frames) if next(calls) == 0 else np.nextafter(encode(frames), np.float16(99))

    remedy = Remedy(lambda: drifting, LATENTS, workers=0)
    assert mend(broken, check(str(broken)), remedy=remedy).mended == [2, 5]
    assert check(str(broken)).problems == []
    same = [equal([a], [b]) for a, b in zip(records(broken), records(cache), strict=True)]
    assert same == [True] * 5 + [False, True]
    assert not (broken / repair.ASIDE).exists()


def test_moments_that_were_written_as_nan_are_made_anew(photos, cache, tmp_path, monkeypatch):
    """Their bytes have the checksum that they were given."""

    def failing(frames):
        return np.where(np.arange(len(frames))[:, None, None, None] == 1, np.nan, encode(frames))

    with monkeypatch.context() as patch:
        patch.setattr("diffnext.data.cache.flaw", lambda moments: None)
        run(photos, tmp_path / "c", encoder=failing, batch_size=7)
    report = check(str(tmp_path / "c"))
    assert report.damaged == [1]
    assert mend(tmp_path / "c", report).mended == [1]
    assert_as_built(tmp_path / "c", cache)


def test_a_source_that_was_edited_is_not_taken(cache, tmp_path):
    folder = write_photos(tmp_path / "photos")
    path = tmp_path / "c"
    run(folder, path)
    flip_byte(path / "00000.data", place(path, 1) + 90)
    flip_byte(path / "00000.data", place(path, 3) + 90)
    write_picture(folder, "p1", 99)
    (folder / "p3.png").unlink()
    report, before = check(str(path)), records_of_files(path)
    flip_byte(path / "00000.data", place(path, 5) + 90)
    outcome = mend(path, check(str(path)))
    assert "was edited" in outcome.failed[1] and "is not there" in outcome.failed[3]
    assert outcome.mended == [5] and records_of_files(path) == before
    outcome = mend(path, report, drop=True)
    assert (outcome.mended, outcome.dropped) == ([], [1, 3])
    assert check(str(path)).problems == []
    assert [e.path[-6:] for e in entries(path)] == [f"p{n}.png" for n in (0, 2, 4, 5, 6)]


def test_a_repair_that_breaks_off_anywhere_is_done_by_the_next(cache, tmp_path, monkeypatch):
    """Ended at each renaming and removal of a file in turn, until one passes undisturbed."""
    broken = copy(cache, tmp_path / "broken")
    flip_byte(broken / "00000.data", place(cache, 3) + 90)
    monkeypatch.setattr(repair, "_write_back", no_way_back)
    steps = Steps(monkeypatch, (os, "replace"), (os, "unlink"))
    for step in count():
        path = copy(broken, tmp_path / str(step))
        if not steps.kill(step, mend, path, check(str(path))):
            break
        recover(str(path))
        report = check(str(path))
        assert report.damaged in ([], [3])
        mend(path, report)
        assert_as_built(path, cache)
        assert not (path / repair.ASIDE).exists()
    assert step >= 10
    assert_as_built(path, cache)


def test_a_repair_that_was_killed_at_its_end_leaves_nothing_for_good(broken, cache, monkeypatch):
    flip_byte(broken / "00000.data", place(cache, 3) + 90)
    with monkeypatch.context() as patch:
        patch.setattr(repair.shutil, "rmtree", lambda path, ignore_errors: None)
        assert mend(broken, check(str(broken))).mended == [3]
    assert (broken / repair.ASIDE).exists() and check(str(broken)).problems == []
    (broken / ".00000.check.12.34.tmp").write_bytes(b"")  # begun when it was killed
    assert repair_or_drop(broken) == 0
    assert records_of_files(broken) == records_of_files(cache)


def no_way_back(cache, aside, places):
    """As if all last digits were others."""
    made = open_reader(aside)
    return {row: partial(made.__getitem__, at) for row, at in places.items()}


def records_of_files(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_without_a_journal_records_are_only_dropped(tmp_path, capsys):
    rows = [{"moments": np.full((8, 2, 2), n), "caption": f"{n}"} for n in range(4)]
    path = write_records(tmp_path / "c", rows)
    flip_byte(path / "00000.data", place(path, 1) + 60)
    report = check(str(path))
    assert report.damaged == [1] and "no journal" in " ".join(report.notes)
    assert "no journal" in mend(path, report).failed[1]
    assert main(["cache", "verify", str(path), "--repair", "--drop"]) == 0
    assert "1 dropped" in capsys.readouterr().out
    assert [record["caption"] for record in records(path)] == ["0", "2", "3"]
    (path / "METADATA").unlink()
    assert "what is complete can be read" in check(str(path)).problems[0].what


def test_values_that_are_not_finite(tmp_path):
    rows = [{"moments": np.full((8, 2, 2), float(n)), "caption": ""} for n in range(3)]
    rows[1]["moments"][5, 0, 1] = np.nan
    rows[2]["moments"][0, 1, 1] = -np.inf
    report = check(str(write_records(tmp_path / "c", rows)))
    assert parts(report) == [("record", 1), ("record", 2)]
    assert "NaN or infinite" in report.problems[0].what


@pytest.fixture
def broken(cache, tmp_path):
    """A copy of the cache, to be broken."""
    return copy(cache, tmp_path / "c")


def repair_or_drop(path):
    return main(["cache", "verify", str(path), "--repair", "--drop"])


def test_a_folder_that_was_not_finished(broken, cache):
    (broken / "METADATA").unlink()
    found = check(str(broken))
    assert parts(found) == [("METADATA", -1)] and "same command goes on" in found.problems[0].what
    assert repair_or_drop(broken) == 0
    assert_as_built(broken, cache)


def test_journals_that_do_not_fit_the_records(broken):
    lines = (broken / JOURNAL).read_text().splitlines(keepends=True)
    (broken / JOURNAL).write_text("".join(lines[:5]))
    assert [problem.part for problem in check(str(broken)).problems] == ["journal"]
    lines[3] = lines[3].replace('"height": 32', '"height": 64')
    (broken / JOURNAL).write_text("".join(lines[:4]))
    assert ("journal", 3) in parts(check(str(broken)))


def test_an_identity_of_other_fields(broken):
    text = (broken / "diffnext.json").read_text()
    (broken / "diffnext.json").write_text(text.replace('"caption",', '"label",'))
    assert parts(check(str(broken))) == [("identity", -1)]


def test_a_damaged_copy_of_the_indexes(broken, cache):
    reader = open_reader(broken)
    at = (broken / SIDECAR).read_bytes().index(reader.index.offset[3].tobytes())
    flip_byte(broken / SIDECAR, at)
    assert ("index", -1) in parts(check(str(broken)))
    assert repair_or_drop(broken) == 0
    assert not (broken / SIDECAR).exists()
    assert_as_built(broken, cache)  # the record itself was never damaged


@pytest.mark.parametrize("damage", [shorten, flip_byte])
def test_checksums_that_are_short_or_wrong(broken, cache, damage):
    damage(broken / "00000.check", 40)
    assert parts(check(str(broken))) == [("checksums", -1)]
    assert repair_or_drop(broken) == 0
    assert check(str(broken)).problems == []
    assert (broken / "00000.check").read_bytes() == (cache / "00000.check").read_bytes()


def test_a_damaged_shape_is_found_without_the_copy_of_the_indexes(broken, cache):
    """The shapes are read from the records then."""
    (broken / SIDECAR).unlink()
    at = (broken / "00000.data").read_bytes().index(b"shape", place(cache, 3))
    flip_byte(broken / "00000.data", at)
    report = check(str(broken))
    assert parts(report) == [("record", 3)] and "a record whose shape is damaged" in report.notes[0]
    assert mend(broken, report).mended == [3]
    assert_as_built(broken, cache)


def test_a_text_index_that_lost_a_line(broken, cache):
    text = (broken / "00000.index").read_text().splitlines(keepends=True)
    (broken / "00000.index").write_text("".join(text[:-1]))
    assert parts(check(str(broken))) == [("index", -1)]
    assert repair_or_drop(broken) == 0
    assert_as_built(broken, cache)


def test_no_text_index_and_a_copy_of_another_state(broken, cache):
    (broken / "00000.index").unlink()
    metadata = (broken / "METADATA").read_text()
    (broken / "METADATA").write_text(metadata.replace("7", "8"))
    assert repair_or_drop(broken) == 1
    assert not (broken / "00000.index").exists()
    (broken / "METADATA").write_text(metadata)
    assert repair_or_drop(broken) == 0
    assert_as_built(broken, cache)


def test_a_shard_that_is_not_there(cache, tmp_path):
    broken = copy(cache, tmp_path / "c")
    (broken / "00000.data").unlink()
    assert check(str(broken)).damaged == list(range(7))


@pytest.mark.parametrize("options", [["--repair"], ["--drop"]])
def test_options_that_need_others(cache, options, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["cache", "verify", str(cache), *options])
    assert caught.value.code == 2
