# SPDX-License-Identifier: Apache-2.0
"""The progress of a build: rates, the stage that limits, the time that is left, how it is shown."""

import io

import pytest

from diffnext.data import progress
from diffnext.data.progress import Display, Meter, Stage, Tally, clock
from diffnext.data.sources import scan


@pytest.fixture
def now(monkeypatch):
    """A clock that is set by hand."""
    times = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: times[0])
    return times


def test_a_stage_counts_what_its_lanes_do_side_by_side(now):
    stage = Stage("decode", lanes=4)
    assert stage.rate == 0
    with stage.at_work(3):
        now[0] += 2
    stage.add(1, 2)
    assert stage.rate == 4  # 4 samples in 4 seconds, 4 at a time


def test_time_counts_even_where_the_work_failed(now):
    stage = Stage("encode")
    with pytest.raises(ValueError), stage.at_work(2):
        now[0] += 1
        raise ValueError
    assert stage.rate == 2


def half_done(now, decode=8.0, encode=2.0, write=0.0025):
    meter = Meter(total=100, total_bytes=4000, workers=2)
    meter.decode.add(10, decode)
    meter.encode.add(10, encode)
    meter.write.add(10, write)
    now[0] += 60
    meter.advance(10, 1000)
    return meter


def test_the_slowest_stage_limits_and_time_goes_by_bytes(now):
    meter = half_done(now)
    assert str(meter) == "decode 2.5/s, encode 5/s, write 4000/s; decode limits; 3:00 left"
    assert half_done(now, encode=9.0).limit == "encode"


def test_before_the_first_batch_nothing_is_estimated(now):
    assert str(Meter(3, 30)) == "decode 0/s, encode 0/s, write 0/s"


def test_without_a_terminal_there_is_a_line_every_half_minute_and_one_at_the_end(now):
    stream = io.StringIO()
    meter = half_done(now)
    display = Display(stream)
    for _ in range(61):
        display(meter)
        now[0] += 1
    meter.advance(90, 3000)
    display(meter)
    display.close()
    lines = stream.getvalue().splitlines()
    assert [line.split(" samples")[0] for line in lines] == [*["10 of 100"] * 2, "100 of 100"]
    assert lines[0].endswith("decode limits; 4:30 left")  # 10 samples in 90 s


def test_on_a_terminal_there_is_a_bar(now):
    stream = io.StringIO()
    stream.isatty = lambda: True
    display = Display(stream)
    meter = half_done(now)
    display(meter)
    meter.advance(90, 3000)
    display(meter)
    display.close()
    assert "100/100" in stream.getvalue() and "decode limits" in stream.getvalue()


def test_clock():
    assert [clock(3), clock(62.6), clock(7384)] == ["0:03", "1:03", "2:03:04"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_a_scan_counts_what_it_finds_on_a_terminal_and_clears_the_line(tmp_path, stream):
    for name in ("a.jpg", "b.mp4", "b.txt"):
        (tmp_path / name).write_bytes(b"x")
    counts = []
    tally = Tally(stream, delay_s=0)
    scan(str(tmp_path), tick=lambda what: counts.append(what) or tally(what))
    tally.close()
    assert counts == 3 * ["files"] + 2 * ["media"]
    lines = stream.getvalue().split("\r")
    if isinstance(stream, Terminal):
        assert [line.split()[0] for line in lines if line.strip()] == ["files:", "media:"]
        assert not lines[-1]
    else:
        assert lines == [""]
