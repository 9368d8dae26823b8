# SPDX-License-Identifier: Apache-2.0
"""Decoding ahead: in order, within its bounds, and past media that hang or crash their decoder."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from diffnext.data import decoding, media, worker
from diffnext.data.decoding import Order, decode, decode_ahead
from diffnext.data.location import File, TarMember
from diffnext.data.motion import motion_score
from diffnext.data.views import View
from diffnext.data.worker import WorkError
from diffnext.data.workers import Pool
from tests.children import LONG_S
from tests.data import odd_work
from tests.data.clips import numbers, write_clip
from tests.data.odd_work import OddOrder


def ahead(orders, **options):
    options = {"workers": 2, "limit_s": 20, "work": odd_work.carry_out, **options}
    return decode_ahead(((order, order) for order in orders), **options)


def values(results):
    return [value for _, value in results]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_whoever_is_first(workers):
    seconds = [0.05, 0, 0.02, 0, 0.01, 0, 0, 0]
    orders = [OddOrder("wait", value) for value in seconds]
    results = list(ahead(orders, workers=workers))
    assert [order for order, _ in results] == orders
    assert values(results) == seconds


def test_a_crash_and_a_hang_cost_one_result_each():
    orders = [
        OddOrder("echo", 1),
        OddOrder("segfault"),
        OddOrder("echo", 2),
        OddOrder("sleep", 600),
        OddOrder("raise", "no codec"),
        OddOrder("echo", 3),
    ]
    results = values(ahead(orders, limit_s=2))
    errors = [str(value) for value in results if isinstance(value, WorkError)]
    assert [value for value in results if not isinstance(value, WorkError)] == [1, 2, 3]
    assert errors == [
        "the decoder crashed with signal 11 (SIGSEGV)",
        "timed out after 2 s",
        "OddError: no codec",
    ]


def test_one_that_hangs_holds_up_nobody_for_long(monkeypatch):
    monkeypatch.setattr(decoding, "PATIENCE_S", 0.2)
    monkeypatch.setattr(worker, "QUICK_S", 0)  # or one may wait in the pipe of the same worker
    orders = [OddOrder("echo", 0), OddOrder("wait", 4), *(OddOrder("echo", i) for i in range(5))]
    results = ahead(orders)
    assert [next(results)[1] for _ in range(6)] == [0, 0, 1, 2, 3, 4]
    assert values(results) == [4]


def test_no_more_is_begun_than_the_bytes_allow():
    begun = []

    def orders():
        for number in range(20):
            begun.append(number)
            yield OddOrder("echo", number, num_bytes=10)

    for count, (_, value) in enumerate(ahead(orders(), ahead_bytes=40), start=1):
        assert value == count - 1
        assert len(begun) <= count + 4  # four in the window, and one that waits to get in


def test_a_medium_larger_than_the_bound_passes_alone():
    orders = [OddOrder("echo", number, num_bytes=10**12) for number in range(3)]
    assert values(ahead(orders)) == [0, 1, 2]


def test_a_consumer_that_stops_ends_the_workers():
    results = ahead([OddOrder("echo", 0), *[OddOrder("sleep", 600)] * 4])
    next(results)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < LONG_S


def test_nothing_to_decode():
    assert list(ahead([])) == []


def test_workers_start_quickly_and_without_torch():
    order = ("import", "diffnext.data.decoding")
    with Pool(odd_work.work, workers=1, limit_s=60) as pool:
        modules, seconds = pool.submit(order).result()
    assert {"diffnext.data.decoding", "av", "PIL"} <= modules
    assert "torch" not in modules
    assert seconds < 2.5  # a tenth of that on a fast machine, where torch takes two seconds


def order_for(location, *views, **options):
    return Order(location, views, location.stamp(), **options)


def test_a_medium_is_cut_into_all_views_hashed_and_scored(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", 30)
    views = View(48, 128, (0, 4, 29)), View(24, 64, (3,), flip=True)
    decoded = decode(order_for(File(path), *views, hashed=True, scored=True))
    for clip, wanted in zip(decoded.clips, media.read(media.probe(path), views), strict=True):
        np.testing.assert_array_equal(clip, wanted)
        assert clip.flags.c_contiguous
    assert numbers(decoded.clips[0]) == [0, 4, 29]
    assert decoded.content == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert decoded.flows == [motion_score(decoded.clips[0], [0, 4 / 25, 29 / 25]), 0.0]
    assert decoded.flows[0] > 0


def test_what_is_not_wanted_is_not_done(tmp_path):
    PIL.Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    location = File(str(tmp_path / "red.png"))
    decoded = decode(order_for(location, View(8, 8)))
    assert (decoded.content, decoded.flows) == ("", [None])
    assert decode(order_for(location, View(8, 8), scored=True)).flows == [0.0]


def test_bytes_that_come_from_elsewhere_are_fetched_once(tmp_path, monkeypatch):
    PIL.Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    data = (tmp_path / "red.png").read_bytes()
    (tmp_path / "shard.tar").write_bytes(b"." * 512 + data)
    location = TarMember(str(tmp_path / "shard.tar"), "red.png", 512, len(data))
    calls, read = [], TarMember.read_bytes
    monkeypatch.setattr(TarMember, "read_bytes", lambda self: calls.append(self) or read(self))
    decoded = decode(order_for(location, View(8, 8), hashed=True))
    assert calls == [location]
    assert decoded.clips[0].tolist() == [[[[255, 0, 0]] * 8] * 8]
    assert decoded.content == hashlib.sha256(data).hexdigest()


def test_a_file_that_changed_since_the_plan_is_refused(tmp_path):
    path = tmp_path / "red.png"
    PIL.Image.new("RGB", (64, 64), "red").save(path)
    order = order_for(File(str(path)), View(8, 8))
    os.utime(path, ns=(0, 0))
    with pytest.raises(ValueError, match="changed after the build was planned"):
        decode(order)
