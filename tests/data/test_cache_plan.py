# SPDX-License-Identifier: Apache-2.0
"""What a plan finds new, present, stale, dropped or failed, and what it need not look at."""

import hashlib
import json
import os
from pathlib import Path

import codewithgpu
import numpy as np
import PIL.Image
import pytest

from diffnext.data import media
from diffnext.data.cache import build
from diffnext.data.cache_compare import GONE
from diffnext.data.cache_folder import open_journal
from diffnext.data.cache_identity import comparable, differences
from diffnext.data.journal import JOURNAL
from diffnext.data.latents import Latents
from diffnext.data.location import File
from diffnext.data.plan_table import expected, table
from diffnext.data.records import open_reader, read_identity, write_identity
from diffnext.data.sources import Failure, scan
from diffnext.data.view_rules import ViewRules
from tests.data import odd_work
from tests.data.cache_builds import (
    LATENTS,
    RULES,
    encode,
    plan_for,
    plan_of,
    records,
    run,
    write_picture,
)
from tests.data.clips import numbers, write_clip

VIDEO = Latents(4, 4, 8)


def encode_video(frames):
    """Numbers that the frames show: (B, T, H, W, 3) to (B, 8, T / 4 + 1, H / 8, W / 8)."""
    batch, length, height, width, _ = frames.shape
    shown = np.array([numbers(video)[::4] for video in frames], np.float16)
    moments = np.zeros((batch, 8, (length - 1) // 4 + 1, height // 8, width // 8), np.float16)
    moments[:, 0] = shown[:, :, None, None]
    return moments


def test_an_edited_file_is_encoded_and_its_old_record_reported(photos, tmp_path):
    run(photos, tmp_path / "cache")
    (photos / "p3.txt").write_text("Another caption.")
    plan = plan_for(photos, tmp_path / "cache")
    assert (len(plan.items), plan.present, list(plan.stale)) == (1, 6, [3])
    assert "1  records: a caption, label or flow was changed" in table(plan)
    write_picture(photos, "p3", 3)
    write_picture(photos, "p4", 99)
    os.utime(photos / "p4.png", ns=(0, 0))
    plan = plan_for(photos, tmp_path / "cache")
    assert [Path(item.source.path).name for item in plan.items] == ["p4.png"]


def test_equal_files_are_two_samples_and_a_moved_file_is_none(photos, tmp_path):
    (photos / "q0.png").write_bytes((photos / "p0.png").read_bytes())
    (photos / "q0.txt").write_bytes((photos / "p0.txt").read_bytes())
    assert run(photos, tmp_path / "cache").written == 8
    assert run(photos, tmp_path / "cache").written == 0
    assert plan_for(photos, tmp_path / "cache").journal.moved == 0  # each has its own record
    for suffix in (".png", ".txt"):
        (photos / f"p5{suffix}").rename(photos / f"moved{suffix}")
        (photos / f"p0{suffix}").unlink()
    plan = plan_for(photos, tmp_path / "cache")
    assert (len(plan.items), plan.present, plan.journal.moved) == (0, 7, 1)
    gone = {plan.journal.entries[row].path: reason for row, reason in plan.stale.items()}
    assert gone == {str(photos / "p0.png"): GONE}


def test_videos_give_the_frames_that_were_asked_for(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, count in (("long.mp4", 70), ("short.mp4", 64), ("other.mkv", 65)):
        path = Path(write_clip(folder / name, count))
        path.with_suffix(".json").write_text(json.dumps({"caption": name, "flow": 1.5}))
    PIL.Image.new("RGB", (64, 64)).save(folder / "poster.png")
    (folder / "poster.json").write_text('{"caption": "a picture among videos"}')
    plan = plan_for(
        folder,
        tmp_path / "cache",
        rules=ViewRules((((48, 128),),), num_frames=(33,), frame_stride=2),
        latents=VIDEO,
    )
    [line] = [line for line in table(plan).splitlines() if "48x128" in line]
    assert line.split() == ["33", "frames", "of", "48x128", "px", "8x9x6x16", "2", "0"]
    # of every second of 70 and of 65 frames 33 are taken
    assert "2  frames of the videos to encode are in no view" in table(plan)
    reasons = {Path(f.file).name: f.reason for f in plan.dropped}
    assert reasons == {
        "short.mp4": "fewer than 65 frames",
        "poster.png": "a picture, and --num-frames is 33",
    }
    assert build(plan, encode_video, batch_size=2).written == 2
    for moments in records(tmp_path / "cache").values():
        assert moments.shape == (8, 9, 6, 16)
        assert moments[0, :, 0, 0].tolist() == list(range(0, 65, 8))
    assert open_reader(tmp_path / "cache")[0]["flow"] == 1.5


def test_known_media_are_neither_probed_nor_read(photos, tmp_path, monkeypatch):
    run(photos, tmp_path / "cache")
    plan_for(photos, tmp_path / "cache", remember=True)
    monkeypatch.setattr(media, "probe", None)
    monkeypatch.setattr(File, "digest", None)
    plan = plan_for(photos, tmp_path / "cache")
    assert (plan.present, plan.items, plan.failures) == (7, [], [])
    other = ViewRules(RULES.sizes, flip=True)
    assert len(plan_for(photos, tmp_path / "cache", rules=other).failures) == 7  # probed


def test_new_files_are_hashed_only_where_they_may_be_known(photos, tmp_path, monkeypatch):
    run(photos, tmp_path / "cache")
    hashed = []
    digest = File.digest
    monkeypatch.setattr(File, "digest", lambda file: hashed.append(file.path) or digest(file))
    PIL.Image.new("RGB", (60, 40)).save(photos / "new.png")
    (photos / "new.txt").write_text("New.")
    os.utime(photos / "p2.png", ns=(0, 0))
    plan = plan_for(photos, tmp_path / "cache")
    assert [Path(path).name for path in hashed] == ["p2.png"]
    [task] = plan.tasks
    assert (Path(task.source.path).name, task.content, plan.present) == ("new.png", "", 7)


def test_a_moved_file_is_not_read_again_once_the_journal_knows(photos, tmp_path, monkeypatch):
    run(photos, tmp_path / "cache")
    for suffix in (".png", ".txt"):
        (photos / f"p5{suffix}").rename(photos / f"moved{suffix}")
    plan = plan_for(photos, tmp_path / "cache")
    assert plan.journal.moved == 1 and plan.is_due
    build(plan, None)
    monkeypatch.setattr(File, "digest", None)
    plan = plan_for(photos, tmp_path / "cache")
    assert (plan.present, plan.is_due) == (7, False)


def test_a_resolution_may_be_added_and_the_records_of_the_other_stay(photos, tmp_path):
    run(photos, tmp_path / "cache")
    (photos / "one.heic").write_bytes(b"")
    larger = ViewRules((((64, 64),),))
    plan = plan_for(photos, tmp_path / "cache", rules=larger)
    assert "left out              1  files of other kinds: 1 .heic" in table(plan)
    assert (len(plan.items), plan.present, plan.stale) == (7, 0, {})
    assert [line.split()[-2:] for line in table(plan).splitlines()[1:4]] == [
        ["0", "7"],
        ["7", "0"],
        ["7", "7"],
    ]
    assert build(plan, encode, workers=0).written == 7
    shapes, ids = open_reader(tmp_path / "cache").shapes()
    assert shapes == [(8, 4, 6), (8, 8, 8)] and np.bincount(ids).tolist() == [7, 7]
    both = ViewRules((*RULES.sizes, *larger.sizes))
    assert plan_for(photos, tmp_path / "cache", rules=both).present == 14


def test_touched_files_keep_their_records_though_this_build_takes_no_view_of_them(photos, tmp_path):
    run(photos, tmp_path / "cache")
    for path in photos.glob("*.png"):
        os.utime(path, ns=(0, 0))
    too_large = ViewRules((((640, 960),),), upscale=False)
    plan = plan_for(photos, tmp_path / "cache", rules=too_large)
    assert (len(plan.dropped), plan.items, plan.stale) == (7, [], {})


def test_views_of_one_medium_are_one_task(photos, tmp_path):
    rules = ViewRules((((32, 48),), ((64, 64),)), flip=True)
    plan = plan_for(photos, tmp_path / "cache", rules=rules)
    assert [len(task.items) for task in plan.tasks] == [4] * 7
    assert build(plan, encode, workers=0).written == 28
    entries = open_journal(str(tmp_path / "cache"))[0].entries
    assert len({entry.key for entry in entries}) == 28
    assert sum(entry.view.flip for entry in entries) == 14


def test_tasks_are_no_larger_than_memory_allows(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.mp4", 40)
    (tmp_path / "a.txt").write_text("Numbers.")
    monkeypatch.setattr("diffnext.data.cache_plan.TASK_BYTES", 3 * 9 * 48 * 128 * 3)
    rules = ViewRules((((48, 128),),), num_frames=(9,), windows=None, flip=True)
    plan = plan_for(tmp_path, tmp_path / "cache", rules=rules, latents=VIDEO)
    assert [[item.view.frame_ids[0] for item in task.items] for task in plan.tasks] == [
        [start] * 2 for start in (0, 10, 20, 31)
    ]


def test_what_failed_is_not_tried_again_until_it_changes(photos, tmp_path, monkeypatch):
    (photos / "p1.png").write_bytes(b"no picture")
    whole = (photos / "p2.png").read_bytes()
    (photos / "p2.png").write_bytes(whole[: len(whole) // 2])
    first = run(photos, tmp_path / "cache").failures
    assert sorted(failure.stage for failure in first) == ["decode", "probe"]
    plan = plan_for(photos, tmp_path / "cache")
    assert (plan.items, plan.failed_before, plan.present) == ([], 2, 5)
    assert sorted(plan.failures, key=str) == sorted(first, key=str)
    assert "failed before         2  not tried" in table(plan)
    build(plan, None)
    plan = plan_for(photos, tmp_path / "cache", retry_failed=True)
    assert (len(plan.items), plan.failed_before, len(plan.failures)) == (1, 0, 1)
    (photos / "p2.png").write_bytes(whole)
    plan = plan_for(photos, tmp_path / "cache")
    assert (len(plan.items), plan.failed_before) == (1, 1)


def test_records_of_what_cannot_be_read_are_not_stale(photos, tmp_path):
    run(photos, tmp_path / "cache")
    (photos / "p1.png").write_bytes(b"no picture")
    listing = scan(str(photos))
    listing.sources = [source for source in listing.sources if "p2" not in source.path]
    assert plan_of(listing, tmp_path / "cache").stale == {2: "no longer in the input"}
    listing.failures.append(Failure(str(photos), "scan", "folder cannot be read"))
    assert plan_of(listing, tmp_path / "cache").stale == {}


def test_a_cache_of_version_1_goes_on(photos, tmp_path):
    """As it was written then: one cut in the identity, none in the lines, and its own keys."""
    folder = tmp_path / "cache"
    run(photos, folder)
    identity = read_identity(folder)
    cut = {"height": 32, "width": 48, "num_frames": 1, "frame_stride": 1}
    rule = identity.pop("rules")["resize"]
    write_identity(folder, {**identity, "version": 1, "cut": {**cut, "rule": rule}})
    lines = []
    for entry in open_journal(str(folder))[0].entries:
        fields = {"caption": Path(entry.path).with_suffix(".txt").read_text(), "text": ""}
        text = json.dumps([entry.content, fields, cut], sort_keys=True)
        values = {name: getattr(entry, name) for name in ("path", "size", "mtime_ns", "content")}
        lines.append(json.dumps({"key": hashlib.sha256(text.encode()).hexdigest(), **values}))
    (folder / JOURNAL).write_text("\n".join(lines) + "\n")
    plan = plan_for(photos, folder)
    assert (plan.items, plan.present, plan.stale) == ([], 7, {})
    with pytest.raises(ValueError, match=r"vae\.class: the cache has 'Stub'"):
        plan_for(photos, folder, vae={"class": "Other"})
    write_picture(photos, "p9", 9)
    assert run(photos, folder).written == 1
    assert read_identity(folder) == {**identity, "version": 2, "rules": {"resize": rule}}
    assert plan_for(photos, folder).present == 8


def test_fields_that_the_build_computes_need_not_be_given(tmp_path):
    for name, fields in (("a", {"flow": 2.5}), ("b", {})):
        path = Path(write_clip(tmp_path / f"{name}.mp4", 9))
        path.with_suffix(".json").write_text(json.dumps({"caption": name, **fields}))
    rules = ViewRules((((48, 128),),), num_frames=(9,))
    options = {"rules": rules, "latents": VIDEO}
    assert len(plan_for(tmp_path, tmp_path / "cache", **options).failures) == 1
    plan = plan_for(tmp_path, tmp_path / "cache", **options, computed={"flow": "a rule"})
    assert [item.source.flow for item in plan.items] == [2.5, None]
    assert plan.fields["flow"] == "float64" and plan.identity["rules"]["flow"] == "a rule"


def test_fields_of_a_cache_stay_what_they_are(photos, tmp_path):
    """One medium that has others is a failure; where all have, the folder is another one's."""
    (photos / "p0.json").write_text('{"caption": ["One.", "Two."]}')
    run(photos, tmp_path / "several")
    (photos / "p0.png").unlink()  # the only one that had several
    plan = plan_for(photos, tmp_path / "several")
    assert (plan.present, plan.items, len(plan.stale)) == (6, [], 1)
    run(photos, tmp_path / "one")
    write_picture(photos, "p0", 0)
    (photos / "p1.json").write_text('{"label": 3}')
    plan = plan_for(photos, tmp_path / "one")
    reasons = {Path(f.file).stem: f.reason for f in plan.failures}
    assert reasons == {
        "p0": "several captions, which the records of this cache do not have; leave that out, or build "
        "into another folder",
        "p1": "label, which the records of this cache do not have; leave that out, or build into "
        "another folder",
    }
    assert (plan.present, plan.items, plan.stale) == (5, [], {})  # that of p1 is kept
    assert [Path(f.file).stem for f in plan_for(photos, tmp_path / "several").failures] == ["p1"]
    for path in photos.glob("*.png"):
        path.with_suffix(".json").write_text('{"label": 3}')
    with pytest.raises(ValueError, match=r"fields: the cache has .*, this build .*'label'\]"):
        plan_for(photos, tmp_path / "one")


def test_a_cache_of_another_identity_is_refused(photos, tmp_path):
    run(photos, tmp_path / "cache")
    assert read_identity(tmp_path / "cache")["normalisation"] == "raw"
    with pytest.raises(ValueError) as caught:
        run(photos, tmp_path / "cache", dtype="float16", vae={"class": "Other"})
    assert str(caught.value).splitlines()[1:] == [
        "  dtype.encode: the cache has 'float32', this build 'float16'",
        "  vae.class: the cache has 'Stub', this build 'Other'",
    ]


def test_an_autoencoder_that_encodes_alike_adds_to_a_cache(photos, tmp_path):
    stated = {"class": "Stub", "config": {"width": 8, "scaling_factor": 0.5}}
    run(photos, tmp_path / "cache", vae=stated)
    write_picture(photos, "p7", 7)
    alike = {"class": "Stub", "config": {"act": "silu", "scaling_factor": 0.25, "shift_factor": 1}}
    defaults = {"Stub": {"width": 8, "act": "silu"}}.__getitem__
    assert run(photos, tmp_path / "cache", vae=alike, vae_defaults=defaults).written == 1
    assert read_identity(tmp_path / "cache")["vae"] == stated
    other = {"class": "Stub", "config": {"width": 4, "scaling_factor": 0.5}}
    wanted = r":\n  vae.config.width: the cache has 8, this build 4$"
    with pytest.raises(ValueError, match=wanted):
        run(photos, tmp_path / "cache", vae=other, vae_defaults=defaults)


def test_defaults_are_asked_for_where_they_decide():
    def compared(one, other):
        identities = ({"vae": {"class": "Stub", "config": config}} for config in (one, other))
        return differences(*comparable(*identities, asked.append), "a", "b")

    asked = []
    assert compared({"width": 8, "act": "silu"}, {"width": 8, "act": "silu", "_name": "x"}) == []
    assert compared({"width": 8}, {"width": 4, "act": "relu"}) == [
        "  vae.config.width: a has 8, b 4"
    ]
    assert asked == []
    compared({"width": 8}, {"width": 8, "act": "relu"})
    assert asked == ["Stub", "Stub"]


def test_a_build_that_was_stopped_before_its_first_record_binds_nobody(photos, tmp_path):
    plan_for(photos, tmp_path / "cache", vae={"class": "Wrong"}).begin()
    assert run(photos, tmp_path / "cache").written == 7
    assert read_identity(tmp_path / "cache")["vae"] == {"class": "Stub"}


def test_a_video_that_takes_its_decoder_down_costs_itself_alone(tmp_path, monkeypatch):
    """Both clips are probed by a worker; it is told to end where the second one's name is seen."""
    for name in ("good", "evil"):
        write_clip(tmp_path / f"{name}.mp4", 9)
        (tmp_path / f"{name}.txt").write_text(name)
    monkeypatch.setattr("diffnext.data.cache_plan.examine", odd_work.examine)
    options = {"rules": ViewRules((((48, 128),),), num_frames=(9,)), "latents": VIDEO}
    plan = plan_for(tmp_path, tmp_path / "cache", **options, workers=1)
    assert [item.source.caption for item in plan.items] == ["good"]
    [failure] = plan.failures
    assert (Path(failure.file).name, failure.stage) == ("evil.mp4", "probe")
    assert failure.reason.startswith("the decoder crashed with signal 11")


def test_the_time_is_that_of_the_slower_stage():
    line = expected(decode=3e6, encode=1e6, num_bytes=9 * 10**8, samples=300)
    assert line == "expected time: 15:00 (decode 1/s, encode 0.333/s; encode limits)"
    assert "not known" in expected(0.0, 1e6, 10**6, 3)


def test_records_of_unknown_origin_are_not_added_to(photos, tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    writer = codewithgpu.RecordWriter(str(folder), {"caption": "string"})
    writer.write({"caption": "x"})
    writer.close()
    with pytest.raises(ValueError, match="records that this tool did not make"):
        run(photos, folder)
    run(photos, tmp_path / "cache")
    (tmp_path / "cache" / JOURNAL).unlink()
    with pytest.raises(ValueError, match=r"holds 7 records, .* knows 0"):
        run(photos, tmp_path / "cache")


@pytest.mark.parametrize(
    ("size", "lengths", "message"),
    [
        ((60, 64), (1,), "height 60 is no multiple of 8; nearest: 56 or 64"),
        ((64, 4), (1,), "width 4 is no multiple of 8; nearest: 8"),
        ((64, 64), (33, 32), r"--num-frames 32 is not 4 k \+ 1; nearest: 29 or 33"),
        ((64, 64), (0,), "--num-frames is 0, at least 1"),
    ],
)
def test_sizes_that_the_autoencoder_cannot_take(size, lengths, message):
    with pytest.raises(ValueError, match=message):
        VIDEO.check(ViewRules(((size,),), num_frames=lengths))


def test_sides_are_multiples_of_the_patches_where_that_is_asked_for():
    VIDEO.check(ViewRules((((72, 64),),)))
    with pytest.raises(ValueError, match="height 72 is no multiple of 16; nearest: 64 or 80"):
        VIDEO.check(ViewRules((((72, 64),),)), multiple=2)


def test_a_picture_autoencoder_takes_no_videos():
    with pytest.raises(ValueError, match="encodes pictures"):
        LATENTS.check(ViewRules((((64, 64),),), num_frames=(33,)))
