# SPDX-License-Identifier: Apache-2.0
"""What a plan finds new, present, stale, dropped or failed, and what it need not look at."""

import json
import os
from pathlib import Path

import codewithgpu
import numpy as np
import PIL.Image
import pytest

from diffnext.data.cache import build
from diffnext.data.cache_identity import Latents
from diffnext.data.journal import JOURNAL
from diffnext.data.plan_table import table
from diffnext.data.records import open_reader, read_identity
from diffnext.data.view_rules import ViewRules
from tests.data.cache_builds import (
    LATENTS,
    plan_for,
    records,
    run,
    write_photos,
    write_picture,
)
from tests.data.clips import numbers, write_clip

VIDEO = Latents(4, 4, 8)


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
    for suffix in (".png", ".txt"):
        (photos / f"p5{suffix}").rename(photos / f"moved{suffix}")
    plan = plan_for(photos, tmp_path / "cache")
    assert (len(plan.items), plan.present, plan.stale) == (0, 8, {})


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
        run(photos, tmp_path / "cache", dtype="float16", vae={"class": "Other"})
    assert str(caught.value).splitlines()[1:] == [
        "  dtype.encode: the cache has 'float32', this build 'float16'",
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
