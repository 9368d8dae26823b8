# SPDX-License-Identifier: Apache-2.0
"""The time a build will take, estimated from a few of its samples."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffnext.data import cache_rates
from diffnext.data.cache_rates import Rates, probe_rates
from diffnext.data.view_rules import ViewRules
from tests.data.cache_builds import encode, plan_for

SAMPLE = 32 * 48 * 3  # bytes


def test_the_slower_stage_decides():
    assert Rates(decode=100, encode=50).seconds(200) == 4
    assert Rates(decode=25, encode=50).seconds(200) == 8
    assert Rates(decode=0, encode=50).seconds(200) is None


def test_an_encoder_of_known_speed_is_measured(photos, tmp_path, monkeypatch):
    plan = plan_for(photos, tmp_path / "cache")
    seen, now = [], [0.0]
    monkeypatch.setattr(cache_rates, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def encoder(frames):
        seen.append(len(frames))
        now[0] += 0.05 * len(frames) + (0.3 if len(seen) % 2 else 0)  # slow when it is cold
        return encode(frames)

    rates = probe_rates(plan, encoder, count=4, batch_size=2, workers=0)
    assert seen == [2, 2, 2, 2]  # each once more, when it is warm
    assert rates.encode == pytest.approx(SAMPLE / 0.05)
    assert rates.decode > 0
    num_bytes = sum(task.num_bytes for task in plan.tasks)
    assert num_bytes == 7 * SAMPLE
    assert rates.seconds(num_bytes) >= 7 * SAMPLE / rates.encode
    assert not (tmp_path / "cache").exists()


def test_media_that_fail_are_left_out(photos, tmp_path):
    plan = plan_for(photos, tmp_path / "cache")
    for path in photos.glob("p[0-5].png"):
        path.write_bytes(b"gone bad")
    assert probe_rates(plan, encode, count=7, workers=0).decode > 0
    (photos / "p6.png").unlink()
    assert probe_rates(plan, encode, count=7, workers=0) == Rates(0, 0)


def test_no_medium_is_probed_twice(photos, tmp_path, monkeypatch):
    plan = plan_for(photos, tmp_path / "cache")
    probed = []

    def decode_ahead(orders, **_):
        probed.extend(order.location.path[-6:] for _, order in orders)
        return (nothing for nothing in ())

    monkeypatch.setattr(cache_rates, "decode_ahead", decode_ahead)
    probe_rates(plan, encode, count=8, workers=0)
    assert probed == [f"p{number}.png" for number in range(7)]
    probed.clear()
    probe_rates(plan, encode, count=3, workers=0)
    assert probed == ["p1.png", "p3.png", "p5.png"]


def test_a_few_videos_among_pictures_decide(monkeypatch):
    """Of 99 pictures and a video of nearly all bytes, which takes twice as long for each of them."""
    tasks = [SimpleNamespace(num_bytes=size) for size in (*[1] * 99, 900)]
    assert [task.num_bytes for task in cache_rates._spread(tasks, 8)] == [1, 900]
    now = [0.0]
    monkeypatch.setattr(cache_rates, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    picture, video = (np.zeros((length, 2, 2, 3), np.uint8) for length in (1, 17))

    def encoder(frames):
        now[0] += frames.nbytes * (1 if frames.shape[1] == 1 else 2)
        return encode(np.zeros((len(frames), 1, 8, 8, 3), np.uint8))

    held = {picture.shape: 100, video.shape: 900}
    rate = cache_rates._encode_rate([[picture] * 50, [video]], encoder, held)
    assert rate == pytest.approx(1000 / (100 + 2 * 900))


def test_every_size_is_probed_in_batches_of_its_own(photos, tmp_path):
    plan = plan_for(photos, tmp_path / "cache", rules=ViewRules((((32, 48),), ((64, 96),))))
    shapes = set()

    def encoder(frames):
        shapes.add(frames.shape)
        return encode(frames)

    probe_rates(plan, encoder, count=4, batch_size=4, workers=0)
    assert shapes == {(4, 1, 32, 48, 3), (1, 1, 64, 96, 3)}


def test_nothing_planned_nothing_known(photos, tmp_path):
    plan = plan_for(photos, tmp_path / "cache")
    plan.tasks.clear()
    assert probe_rates(plan, encode, workers=0) == Rates(0, 0)
