# SPDX-License-Identifier: Apache-2.0
"""Decoding ahead: in order, within its bounds, and past media that hang or crash their decoder."""

import time

import pytest

from diffnext.data import decoding
from diffnext.data.decoding import decode_ahead
from diffnext.data.workers import Pool, WorkError
from tests.data import odd_work
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
        OddOrder("sleep", 60),
        OddOrder("raise", "no codec"),
        OddOrder("echo", 3),
    ]
    results = values(ahead(orders, limit_s=1))
    errors = [str(value) for value in results if isinstance(value, WorkError)]
    assert [value for value in results if not isinstance(value, WorkError)] == [1, 2, 3]
    assert errors == [
        "the decoder crashed with signal 11 (SIGSEGV)",
        "timed out after 1 s",
        "OddError: no codec",
    ]


def test_one_that_hangs_holds_up_nobody_for_long(monkeypatch):
    monkeypatch.setattr(decoding, "PATIENCE_S", 0.2)
    orders = [OddOrder("echo", 0), OddOrder("wait", 2), *(OddOrder("echo", i) for i in range(5))]
    start = time.monotonic()
    results = ahead(orders)
    assert [next(results)[1] for _ in range(6)] == [0, 0, 1, 2, 3, 4]
    assert time.monotonic() - start < 2
    assert values(results) == [2]


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
    results = ahead([OddOrder("echo", 0), *[OddOrder("sleep", 60)] * 4])
    next(results)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 10


def test_nothing_to_decode():
    assert list(ahead([])) == []


def test_workers_start_quickly_and_without_torch():
    order = ("import", "diffnext.data.decoding")
    with Pool(odd_work.work, workers=1, limit_s=60) as pool:
        modules, seconds = pool.submit(order).result()
    assert {"diffnext.data.decoding", "av", "PIL"} <= modules
    assert "torch" not in modules
    assert seconds < 0.5
