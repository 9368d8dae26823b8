# SPDX-License-Identifier: Apache-2.0
"""Who leads a build by several processes, who follows, and what they must agree on."""

import errno
import os
import shutil
import threading
import time

import pytest

from diffnext.data import cache_part, cache_ranks, worklist
from diffnext.data.cache_part import Tools
from diffnext.data.cache_ranks import build_shared, lead_or_follow, lock_of, settle
from diffnext.data.records import open_reader
from diffnext.data.records.lock import InUse
from tests.children import LONG_S
from tests.data.cache_builds import assert_complete, encode, interrupting, plan_for, run

ASKED = {"rules": {"sizes": ((32, 48),)}, "dtype": "float32"}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(cache_part, "POLL_S", 0.01)
    monkeypatch.setattr(cache_ranks, "POLL_S", 0.01)


def tools(encoder=encode, batch_size=3):
    return Tools(lambda: encoder, batch_size=batch_size, workers=0)


class Leader(threading.Thread):
    """A process that leads; it waits in its first batch until it may go on."""

    def __init__(self, photos, output):
        super().__init__()
        self.photos, self.output = photos, str(output)
        self.at_work, self.go_on = threading.Event(), threading.Event()
        self.meters = []

    def encode(self, frames):
        self.at_work.set()
        self.go_on.wait(LONG_S)
        return encode(frames)

    def run(self):
        with lock_of(self.output) as lock:
            plan = plan_for(self.photos, self.output)
            self.report = build_shared(
                plan, tools(self.encode, 1), lock=lock, asked=ASKED, show=self.show
            )

    def show(self, meter):
        self.meters.append((meter.done, meter.done_bytes))


@pytest.fixture
def leader(photos, tmp_path):
    leader = Leader(photos, tmp_path / "cache")
    leader.start()
    assert leader.at_work.wait(LONG_S)
    yield leader
    leader.go_on.set()
    leader.join()


def never(*args):
    raise AssertionError("it leads")


def test_alone_among_many(photos, tmp_path):
    """What it gives is what a build of one process gives."""
    leader = Leader(photos, tmp_path / "cache")
    leader.go_on.set()
    leader.run()
    assert (leader.report.written, leader.report.failures) == (7, [])
    assert_complete(photos, tmp_path / "cache")
    assert run(photos, tmp_path / "cache").written == 0


def test_a_follower_does_what_the_leader_does_not(leader, photos, tmp_path):
    """All but what the leader has in hand and takes up next; the leader sees and counts it."""
    told, output = [], str(tmp_path / "cache")
    follower = threading.Thread(
        target=lead_or_follow, args=(output, tools(), ASKED, never), kwargs={"tell": told.append}
    )
    follower.start()
    while len(worklist.find(output).leases("").done()) < 5:
        time.sleep(0.01)
    leader.go_on.set()
    follower.join()
    leader.join()
    assert told[0].endswith(f"plans the build of {output}, this one takes part")
    assert told[1] == "this process encoded 5 samples"
    assert leader.report.written == len(open_reader(output)) == 7
    assert leader.meters[-1] == (7, 7 * 32 * 48 * 3)
    assert run(photos, output).written == 0


def test_a_follower_that_was_asked_for_something_else_is_refused(leader, tmp_path):
    with pytest.raises(ValueError) as caught:
        lead_or_follow(
            str(tmp_path / "cache"), tools(never), {**ASKED, "dtype": "bfloat16"}, never, tell=len
        )
    assert str(caught.value).splitlines() == [
        "the build at work was started in another way; give the same options, or wait for its end:",
        "  dtype: it has 'float32', this process 'bfloat16'",
    ]


def test_a_build_alone_is_refused_while_many_are_at_work(leader, photos, tmp_path):
    with pytest.raises(InUse, match="is being written to by process"):
        run(photos, tmp_path / "cache")


def test_a_follower_leads_when_the_leader_has_died(photos, tmp_path):
    """It finds a work of which one unit was taken and nothing is done."""
    output = str(tmp_path / "cache")
    plan = plan_for(photos, output)
    plan.begin()
    worklist.create(plan, ASKED, leader="one that died").leases("it").claim()
    led = []

    def lead(lock):
        settle(output, tell=led.append)
        led.append(build_shared(plan_for(photos, output), tools(), lock=lock, asked=ASKED).written)
        return 5

    assert lead_or_follow(output, tools(never), ASKED, lead) == 5
    assert led[1:] == [7]
    assert_complete(photos, tmp_path / "cache")


def test_a_build_alone_goes_on_with_what_many_left(photos, tmp_path):
    output, told = str(tmp_path / "cache"), []
    with lock_of(output) as lock, pytest.raises(KeyboardInterrupt):
        build_shared(plan_for(photos, output), tools(interrupting(2), 2), lock=lock, asked=ASKED)
    settle(output, tell=told.append)
    assert told[-1] == f"{output}: an earlier build left records, which are joined to the cache now"
    assert run(photos, output).written == 3
    assert_complete(photos, tmp_path / "cache")


def test_many_go_on_with_what_one_left_unfinished(photos, tmp_path):
    output = str(tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        run(photos, output, encoder=interrupting(1))
    with lock_of(output) as lock:
        plan = plan_for(photos, output)
        assert (len(plan.items), plan.finished) == (4, False)
        assert build_shared(plan, tools(), lock=lock, asked=ASKED).written == 4
    assert_complete(photos, tmp_path / "cache")


def test_samples_that_get_lost_are_missed(photos, tmp_path, monkeypatch):
    """As when a machine fails that had not written to the server what it said was done."""
    output = str(tmp_path / "cache")

    def lose(work, tell):
        [part] = os.listdir(work.parts)
        shutil.rmtree(os.path.join(work.parts, part))

    monkeypatch.setattr(cache_ranks, "wait_for_others", lose)
    (photos / "p2.png").write_bytes(b"no picture")
    with (
        lock_of(output) as lock,
        pytest.raises(ValueError, match=r"^6 samples of .* are not there"),
    ):
        build_shared(plan_for(photos, output), tools(), lock=lock, asked=ASKED)
    assert run(photos, output).written == 6


def test_others_are_waited_for_until_they_are_silent(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_ranks, "TELL_AFTER_S", 0.1)
    output, told = str(tmp_path / "cache"), []
    plan = plan_for(photos, output)
    plan.begin()
    work = worklist.create(plan, ASKED, leader="one", lease_s=1.5)
    with work.members.enter() as member:
        timer = threading.Timer(2.5, member.leave)
        timer.start()
        start = time.monotonic()
        settle(output, tell=told.append)
        assert time.monotonic() - start > 2.4
    assert told[0] == f"waiting for {member.name}, or 1.5 s of silence"


def test_where_locks_do_not_work_many_are_refused(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(
        ValueError, match=r"several processes cannot build here: .*cannot be locked"
    ):
        lock_of(str(tmp_path / "cache"))
