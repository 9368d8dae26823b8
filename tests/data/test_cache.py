# SPDX-License-Identifier: Apache-2.0
"""Whole builds with a stand-in for the autoencoder: what is written, what not, what a second run does."""

import json
import os
import threading
from pathlib import Path

import codewithgpu
import numpy as np
import PIL.Image
import pytest

from diffnext.data import media
from diffnext.data.cache import build
from diffnext.data.cache_identity import Latents
from diffnext.data.journal import JOURNAL
from diffnext.data.media import Cut
from diffnext.data.records import open_reader, read_identity
from tests.data.cache_builds import (
    CUT,
    LATENTS,
    assert_complete,
    encode,
    plan_for,
    records,
    run,
    write_photos,
    write_picture,
)
from tests.data.clips import numbers, package_file, write_clip


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


def encode_video(frames):
    """Numbers that the frames show: (B, T, H, W, 3) to (B, 8, T / 4 + 1, H / 8, W / 8)."""
    batch, length, height, width, _ = frames.shape
    shown = np.array([numbers(video)[::4] for video in frames], np.float16)
    moments = np.zeros((batch, 8, (length - 1) // 4 + 1, height // 8, width // 8), np.float16)
    moments[:, 0] = shown[:, :, None, None]
    return moments


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
    np.testing.assert_array_equal(moments, encode(media.read(media.probe(path), CUT)[None])[0])
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


def test_an_edited_file_is_encoded_and_its_old_record_reported(photos, tmp_path):
    run(photos, tmp_path / "cache")
    (photos / "p3.txt").write_text("Another caption.")
    plan = plan_for(photos, tmp_path / "cache")
    assert (len(plan.items), plan.present, plan.stale) == (1, 6, 1)
    assert "1  records whose source changed" in plan.table()
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
    for suffix in (".png", ".txt"):
        (photos / f"p5{suffix}").rename(photos / f"moved{suffix}")
    plan = plan_for(photos, tmp_path / "cache")
    assert (len(plan.items), plan.present, plan.stale) == (0, 8, 0)


def test_decoding_goes_ahead_but_not_too_far(photos, tmp_path, monkeypatch):
    lock, read, decoded, lead = threading.Lock(), media.read, [], []

    def counted(medium, cut):
        with lock:
            decoded.append(medium.path)
        return read(medium, cut)

    def encoder(frames):
        lead.append(len(decoded))
        return encode(frames)

    monkeypatch.setattr(media, "read", counted)
    run(photos, tmp_path / "cache", encoder=encoder, batch_size=1)
    assert len(decoded) == 7
    assert all(ahead <= done + 1 + 1 + 2 for done, ahead in enumerate(lead))


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
        cut=Cut(48, 128, num_frames=33, frame_stride=2),
        latents=Latents(4, 4, 8),
    )
    assert "33 frames of 48x128 px, every 2 of 65" in plan.table()
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


def test_a_cache_of_another_identity_is_refused(photos, tmp_path):
    run(photos, tmp_path / "cache")
    assert read_identity(tmp_path / "cache")["normalisation"] == "raw"
    with pytest.raises(ValueError) as caught:
        run(photos, tmp_path / "cache", cut=Cut(32, 32), vae={"class": "Other"})
    assert str(caught.value).splitlines()[1:] == [
        "  cut.width: the cache has 48, this build 32",
        "  vae.class: the cache has 'Stub', this build 'Other'",
    ]


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
    ("cut", "message"),
    [
        (Cut(60, 64), "height 60 is no multiple of 8; nearest: 56 or 64"),
        (Cut(64, 4), "width 4 is no multiple of 8; nearest: 8"),
        (Cut(64, 64, 32), r"--num-frames 32 is not 4 k \+ 1; nearest: 29 or 33"),
        (Cut(64, 64, 0), "must be at least 1"),
    ],
)
def test_sizes_that_the_autoencoder_cannot_take(cut, message):
    with pytest.raises(ValueError, match=message):
        Latents(4, 4, 8).check(cut)


def test_a_picture_autoencoder_takes_no_videos():
    with pytest.raises(ValueError, match="encodes pictures"):
        LATENTS.check(Cut(64, 64, 33))
