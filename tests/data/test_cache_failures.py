# SPDX-License-Identifier: Apache-2.0
"""What cannot come into a cache: it is left out and written down, or the build says why it stops."""

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from diffnext.data import media
from diffnext.data.cache import build
from diffnext.data.journal import JOURNAL
from diffnext.data.ledger import LEDGER
from diffnext.data.plan_table import table
from diffnext.data.records.folder_writer import FolderWriter
from tests.data.cache_builds import (
    VIEW,
    assert_complete,
    encode,
    plan_for,
    records,
    run,
    write_picture,
)


def test_bad_media_are_left_out_and_written_down(photos, tmp_path):
    (photos / "p1.png").write_bytes(b"no picture")
    whole = (photos / "p2.png").read_bytes()
    (photos / "p2.png").write_bytes(whole[: len(whole) // 2])
    (photos / "p3.txt").write_bytes(b"caf\xe9")
    (photos / "p4.txt").unlink()
    report = run(photos, tmp_path / "cache")
    assert report.written == 3
    lines = (tmp_path / "cache" / LEDGER).read_text().splitlines()
    ledger = {Path(f["file"]).name: (f["stage"], f["reason"]) for f in map(json.loads, lines)}
    assert {name: stage for name, (stage, _) in ledger.items()} == {
        "p1.png": "probe",
        "p2.png": "decode",
        "p3.png": "scan",
        "p4.png": "scan",
    }
    assert "truncated" in ledger["p2.png"][1]
    assert ledger["p4.png"][1] == "no caption, which others have"
    for name in ("p1.png", "p2.png"):
        write_picture(photos, Path(name).stem, 50)
    assert len(run(photos, tmp_path / "cache").failures) == 2


def test_bad_moments_are_failures(photos, tmp_path):
    def encoder(frames):
        moments = encode(frames)
        for sample, frame in zip(moments, frames, strict=True):
            if (frame == media.read(media.probe(str(photos / "p1.png")), [VIEW])[0]).all():
                sample[0, 0, 0] = np.inf
            if (frame == media.read(media.probe(str(photos / "p5.png")), [VIEW])[0]).all():
                sample[:] = 3
        return moments

    report = run(photos, tmp_path / "cache", encoder=encoder)
    assert report.written == 5
    assert [(Path(f.file).name, f.stage, f.reason) for f in report.failures] == [
        ("p1.png", "encode", "ValueError: moments are NaN or beyond the range of float16"),
        ("p5.png", "encode", "ValueError: moments are constant, 3 everywhere"),
    ]
    lines = (tmp_path / "cache" / JOURNAL).read_text().splitlines()
    paths = [json.loads(line)["path"] for line in lines]  # line n is record n
    assert [Path(path).with_suffix(".txt").read_text() for path in paths] == list(
        records(tmp_path / "cache")
    )


def test_a_batch_that_fails_is_taken_sample_by_sample(photos, tmp_path):
    def encoder(frames):
        if len(frames) > 1:
            raise RuntimeError("out of memory")
        return encode(frames)

    assert run(photos, tmp_path / "cache", encoder=encoder).written == 7
    assert_complete(photos, tmp_path / "cache")


def test_an_autoencoder_that_fails_on_everything_stops_the_build(photos, tmp_path):
    calls = []

    def encoder(frames):
        calls.append(len(frames))
        if len(calls) > 1:
            raise RuntimeError("on another device")
        return encode(frames)

    with pytest.raises(ValueError, match=r"3 batches in a row, .*RuntimeError: on another device"):
        run(photos, tmp_path / "cache", encoder=encoder, batch_size=1)
    assert calls == [1] * 4
    assert run(photos, tmp_path / "cache").written == 6
    assert_complete(photos, tmp_path / "cache")


def test_what_a_broken_autoencoder_refused_is_not_held_against_the_samples(photos, tmp_path):
    def encoder(frames):
        raise RuntimeError("on another device")

    with pytest.raises(ValueError, match="3 batches in a row"):
        run(photos, tmp_path / "cache", encoder=encoder, batch_size=1)
    assert (tmp_path / "cache" / LEDGER).read_text() == ""


def test_a_lack_of_memory_is_written_down_and_tried_again(photos, tmp_path):
    first = media.read(media.probe(str(photos / "p0.png")), [VIEW])[0]

    def encoder(frames):
        if (frames == first).all(axis=(1, 2, 3, 4)).any():
            raise MemoryError
        return encode(frames)

    [failure] = run(photos, tmp_path / "cache", encoder=encoder).failures
    assert (Path(failure.file).name, failure.stage) == ("p0.png", "encode")
    assert run(photos, tmp_path / "cache").written == 1


def test_a_decoder_that_hangs_costs_one_sample(photos, tmp_path):
    plan = plan_for(photos, tmp_path / "cache")
    (photos / "p3.png").unlink()
    os.mkfifo(photos / "p3.png")  # to open it is to wait for a writer
    report = build(plan, encode, batch_size=3, workers=2, decode_timeout_s=5)
    assert report.written == 6
    [failure] = report.failures
    assert (Path(failure.file).name, failure.stage) == ("p3.png", "decode")
    assert failure.reason == "timed out after 5 s"


def test_a_file_that_changes_while_the_cache_is_built_comes_next_time(photos, tmp_path):
    plan = plan_for(photos, tmp_path / "cache")
    write_picture(photos, "p3", 50)
    report = build(plan, encode, workers=0)
    assert (report.written, len(report.failures)) == (6, 1)
    assert "changed after the build was planned" in report.failures[0].reason
    assert run(photos, tmp_path / "cache").written == 1


def test_a_full_disk_stops_the_build_and_what_is_there_stays(photos, tmp_path, monkeypatch):
    """The writer fails in its own thread; the build hears of it, and goes on another time."""
    write, count = FolderWriter.write, []

    def full(self, record):
        count.append(record)
        if len(count) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, record)

    monkeypatch.setattr(FolderWriter, "write", full)
    threads = set(threading.enumerate())
    with pytest.raises(OSError, match="No space left"):
        run(photos, tmp_path / "cache", batch_size=2)
    monkeypatch.undo()
    assert set(threading.enumerate()) <= threads
    assert run(photos, tmp_path / "cache").written == 3
    assert_complete(photos, tmp_path / "cache")


def test_batches_that_fail_between_others_stop_nothing(photos, tmp_path):
    calls = []

    def encoder(frames):
        calls.append(len(frames))
        if len(calls) % 3:
            raise ValueError("no")
        return encode(frames)

    report = run(photos, tmp_path / "cache", encoder=encoder, batch_size=1)
    assert (report.written, len(report.failures)) == (2, 5)


def test_moments_of_another_shape_name_the_file(photos, tmp_path):
    with pytest.raises(ValueError, match=r"p0\.png: the autoencoder gave moments \(8, 4, 5\)"):
        run(photos, tmp_path / "cache", encoder=lambda frames: encode(frames)[..., 1:])


def test_a_line_of_pixels_is_a_failure_of_the_probe(photos, tmp_path):
    PIL.Image.new("RGB", (3000, 1)).save(photos / "p3.png")
    plan = plan_for(photos, tmp_path / "cache")
    [failure] = plan.failures
    assert (Path(failure.file).name, failure.stage) == ("p3.png", "probe")
    assert failure.reason.startswith("1x3000 px would be resized to 32x96000 for a crop of 32x48")


def test_media_without_any_caption_are_refused(photos, tmp_path):
    for path in photos.glob("*.txt"):
        path.unlink()
    with pytest.raises(ValueError, match="none of 7 media has a caption or a label"):
        plan_for(photos, tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no picture or video .* used$"):
        plan_for(tmp_path / "empty", tmp_path / "cache")


def test_where_nothing_can_be_used_the_reasons_are_given(tmp_path):
    manifest = tmp_path / "list.csv"
    manifest.write_text("picture,caption\n" + "a.png,A.\n" * 4)
    with pytest.raises(ValueError) as caught:
        plan_for(manifest, tmp_path / "cache")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("no picture or video in it that can be used; 4 failed:")
    place = f"  {manifest}: line 2: no column path or file, there are ['caption', 'picture']"
    assert (lines[1], lines[4:]) == (place, ["  and 1 more"])


def test_failures_that_differ_in_their_files_alone_are_counted_as_one(photos, tmp_path):
    names = ["p0.png", "one.heic", "two.heic", "three.heic"]
    manifest = photos / "all.csv"
    manifest.write_text("path,caption\n" + "".join(f"{name},A caption.\n" for name in names))
    for name in ("a.png", "b.png"):
        (photos / name).write_bytes(b"no picture")
        with manifest.open("a") as stream:
            stream.write(f"{name},A caption.\n")
    lines = table(plan_for(manifest, tmp_path / "cache")).splitlines()
    counts = [line.split(maxsplit=2)[1:] for line in lines if line.startswith("failed")]
    assert counts == [
        ["3", "'.heic' is not the suffix of a picture or video"],
        ["2", "UnidentifiedImageError: cannot identify image file it"],
    ]


def test_names_that_are_no_text_are_reported_and_printed(photos, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (photos / name).write_bytes(b"no picture")
    except OSError:
        pytest.skip("this file system takes no such names")
    (photos / name).with_suffix(".txt").write_text("A caption.")
    plan = plan_for(photos, tmp_path / "cache")
    table(plan).encode()
    assert build(plan, encode, workers=0).written == 7
    assert "caf\\udce9.png" in (tmp_path / "cache" / LEDGER).read_text()
