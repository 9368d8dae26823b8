# SPDX-License-Identifier: Apache-2.0
"""Whole builds with a stand-in for the autoencoder: what is written, what not, what a second run does."""

import json
import os
import threading
import time
from functools import partial

import numpy as np
import pytest

from diffnext.data import cache, media, motion
from diffnext.data.cache import build
from diffnext.data.decoding import decode_ahead
from diffnext.data.journal import JOURNAL, Journal
from diffnext.data.latents import Latents
from diffnext.data.records import open_reader
from diffnext.data.records.index import SIDECAR
from diffnext.data.view_rules import ViewRules
from tests.children import LONG_S
from tests.data import odd_work
from tests.data.cache_builds import (
    VIEW,
    assert_complete,
    encode,
    plan_for,
    run,
    write_picture,
)
from tests.data.clips import package_file, write_clip


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
    os.truncate(tmp_path / "cache" / "00000.check", 8)
    (tmp_path / "cache" / SIDECAR).unlink()  # which has the sums too
    del before[SIDECAR]
    before["00000.check"] = before["00000.check"][:8]
    with pytest.warns(UserWarning, match="6 records .* have none; they are read unverified"):
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


def test_views_of_one_medium_come_from_one_decode_and_wait_for_their_own_batches(photos, tmp_path):
    rules = ViewRules(sizes=(((32, 48),), ((64, 64),)), flip=True)
    seen = []

    def encoder(frames):
        seen.append(frames.shape)
        return encode(frames)

    plan = plan_for(photos, tmp_path / "cache", rules=rules)
    assert len(plan.tasks) == 7
    assert build(plan, encoder, batch_size=6, workers=0).written == 28
    assert {shape[2:4] for shape in seen} == {(32, 48), (64, 64)}
    assert max(len_ for len_, _, height, _, _ in seen if height == 32) == 6
    assert max(len_ for len_, _, height, _, _ in seen if height == 64) == 2  # as many pixels
    reader = open_reader(tmp_path / "cache")
    for index, entry in enumerate(plan.journal.entries):
        [frames] = media.read(media.probe(entry.path), [entry.view])
        moments = np.frombuffer(reader[index]["moments"], np.float16)
        np.testing.assert_array_equal(moments, encode(frames[None])[0].ravel())


def test_videos_without_a_motion_score_get_one(tmp_path):
    pytest.importorskip("cv2")
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, flow in (("given", 7.5), ("not", None)):
        write_clip(folder / f"{name}.mp4", 9)
        (folder / f"{name}.json").write_text(json.dumps({"caption": name, "flow": flow}))
    plan = plan_for(
        folder,
        tmp_path / "cache",
        rules=ViewRules(sizes=(((48, 128),),), num_frames=(9,)),
        latents=Latents(4, 4, 8),
        computed={"flow": motion.RULE},
    )
    assert build(plan, encode_video, workers=0).written == 2
    clip = media.read(media.probe(str(folder / "not.mp4")), [plan.journal.entries[1].view])[0]
    wanted = motion.motion_score(clip, np.arange(9) / 25)
    reader = open_reader(tmp_path / "cache")
    assert [reader[i]["flow"] for i in range(2)] == [7.5, pytest.approx(wanted, rel=1e-6)]
    assert wanted > 0


def test_progress_is_told_and_ends_at_the_end(photos, tmp_path):
    (photos / "p2.png").write_bytes((photos / "p2.png").read_bytes()[:500])
    states = []
    plan = plan_for(photos, tmp_path / "cache")
    build(plan, encode, batch_size=3, workers=0, show=lambda m: states.append((m.done, m.limit)))
    assert [done for done, _ in states] == sorted(done for done, _ in states)
    assert states[-1][0] == 7
    assert states[-1][1] in ("decode", "encode", "write")


def test_stages_work_side_by_side(photos, tmp_path, monkeypatch):
    """While a batch is encoded its lines go to the disk, and the media of later ones are decoded."""
    for number in range(10, 15):
        write_picture(photos, f"p{number}", number)
    at_once, append = threading.Barrier(2, timeout=LONG_S), Journal.append

    def append_meanwhile(self, entries):
        at_once.wait()
        return append(self, entries)

    def encode_meanwhile(frames):
        at_once.wait()
        while (photos / odd_work.DECODED).stat().st_size < 12:
            time.sleep(0.001)
        return encode(frames)

    monkeypatch.setattr(Journal, "append", append_meanwhile)
    monkeypatch.setattr(cache, "decode_ahead", partial(decode_ahead, work=odd_work.noted_decode))
    plan = plan_for(photos, tmp_path / "cache")
    assert build(plan, encode_meanwhile, batch_size=4, workers=2).written == 12


def encode_video(frames):
    """Zeros but for the first latent of each clip: (B, T, H, W, 3) to (B, 8, T / 4 + 1, H / 8, W / 8)."""
    batch, length, height, width, _ = frames.shape
    moments = np.zeros((batch, 8, (length - 1) // 4 + 1, height // 8, width // 8), np.float16)
    moments[:, 0, 0] = 1
    return moments
