# SPDX-License-Identifier: Apache-2.0
"""Results come in order, errors among them, and no more work is begun than was asked for."""

import threading
import time

from diffnext.data.threads import map_ahead


def test_order_and_errors():
    def slow_first(number):
        time.sleep(0.02 if number == 0 else 0)
        return 10 // (number - 3)

    results = list(map_ahead(slow_first, range(6), workers=3, ahead=4))
    assert [r for r in results if not isinstance(r, Exception)] == [-4, -5, -10, 10, 5]
    assert isinstance(results[3], ZeroDivisionError)


def test_nothing_is_begun_beyond_the_bound():
    begun, lock = [], threading.Lock()

    def note(number):
        with lock:
            begun.append(number)
        return number

    for count, result in enumerate(map_ahead(note, range(50), workers=2, ahead=5), start=1):
        assert result == count - 1
        assert len(begun) <= count + 5


def test_a_consumer_that_stops_ends_the_work():
    begun = []
    results = map_ahead(begun.append, range(1000), workers=1, ahead=3)
    next(results)
    results.close()
    time.sleep(0.05)
    assert len(begun) <= 4


def test_no_items():
    assert list(map_ahead(str, [], workers=1, ahead=0)) == []
