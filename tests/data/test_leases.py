# SPDX-License-Identifier: Apache-2.0
"""Signs of life, and units of work of which each belongs to one process at a time."""

import json
import os
import signal
import threading
import time

import pytest

from diffnext.data.leases import Leases, Members


@pytest.fixture
def members(tmp_path):
    return Members(str(tmp_path / "members"), lease_s=30)


def leases(tmp_path, members, name, count=3):
    return Leases(str(tmp_path / "units"), count, name, members)


def age(members, name, seconds):
    """Let the last sign of life of a member lie so far back."""
    then = time.time() - seconds
    os.utime(os.path.join(members.folder, name), (then, then))


def foreign(members, name):
    """A member on another machine, whose processes cannot be asked after."""
    with open(os.path.join(members.folder, name), "w") as stream:
        stream.write('{"machine": "another", "pid": 1}')


def test_members_live_until_they_leave(members):
    with members.enter() as first, members.enter() as second:
        assert set(members.living()) == {first.name, second.name}
    assert members.living() == []


def test_a_member_gives_signs_of_life(tmp_path):
    members = Members(str(tmp_path), lease_s=0.6)
    with members.enter() as member:
        age(members, member.name, 100)
        assert members.living() == []
        while members.living() != [member.name]:
            time.sleep(0.01)


def test_one_that_is_silent_counts_as_dead_after_the_lease(members):
    with members.enter():
        foreign(members, "other")
        assert "other" in members.living()
        age(members, "other", 29)
        assert "other" in members.living()
        age(members, "other", 31)
        assert "other" not in members.living()


def test_of_this_machine_a_dead_process_is_known_at_once(members):
    """Before its parent has read how it ended, too, and when another one has got its number."""
    child = os.fork()
    if not child:
        try:
            members.enter()
        finally:
            os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    [name] = os.listdir(members.folder)
    assert members.living() == []
    os.waitpid(child, 0)
    assert members.living() == []
    file = os.path.join(members.folder, name)
    with open(file) as stream:
        known = json.load(stream)
    with open(file, "w") as stream:
        json.dump(known | {"pid": os.getpid()}, stream)
    assert members.living() == []


def test_one_that_is_killed_while_it_enters_is_waited_for_by_nobody(members):
    child = os.fork()
    if not child:
        try:
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            members.enter()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert os.listdir(members.folder) and members.living() == []


def test_time_is_that_of_the_file_system(members, monkeypatch):
    """The clocks of two machines may differ by hours."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with members.enter() as member:
        assert members.living() == [member.name]
        stamp = os.stat(os.path.join(members.folder, member.name)).st_mtime
        assert abs(members.now() - stamp) < 10


def test_each_unit_goes_to_one(tmp_path, members):
    """Eight at a time, by as many threads; the system decides who makes a file."""
    taken = []

    def work(member):
        own = leases(tmp_path, members, member.name, count=200)
        while (claim := own.claim()) is not None:
            taken.append(claim)

    entered = [members.enter() for _ in range(8)]
    threads = [threading.Thread(target=work, args=(member,)) for member in entered]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for member in entered:
        member.leave()
    assert sorted(taken) == [(unit, False) for unit in range(200)]


def test_a_claim_looks_at_few_units_however_many_are_claimed(tmp_path, members, monkeypatch):
    """By the folder of claims, which is never listed: it may be large, and lie on another machine."""
    names, looks, exists = [f"{unit}.0" for unit in range(120)], [], os.path.exists
    with members.enter() as first, members.enter() as second:
        early = leases(tmp_path, members, first.name, count=130)
        for name in names:
            (tmp_path / "units" / "claims" / name).write_text(first.name)
        late = leases(tmp_path, members, second.name, count=130)
        monkeypatch.setattr(os, "listdir", None)
        monkeypatch.setattr(os.path, "exists", lambda path: looks.append(path) or exists(path))
        assert late.claim() == (120, False)
        assert len(looks) <= 15
        assert [late.claim()[0] for _ in range(4)] == [121, 122, 123, 124]
        assert len(looks) <= 15
        assert [early.claim()[0], late.claim()[0], early.claim()[0]] == [125, 126, 127]


def test_two_machines_with_equal_process_numbers_read_the_clock_at_once(members, monkeypatch):
    """As in two containers: each has a file of its own for it."""
    nested, unlink = [], os.unlink

    def meanwhile(path):
        if not nested:
            nested.append(None)
            nested.append(members.now())
        unlink(path)

    with members.enter() as member:
        monkeypatch.setattr(os, "unlink", meanwhile)
        assert members.now() == pytest.approx(nested[1], abs=10)
        assert os.listdir(members.folder) == [member.name]


def test_the_units_of_a_dead_one_are_taken_over_once(tmp_path, members):
    with members.enter() as second, members.enter() as third:
        foreign(members, "first")
        first = leases(tmp_path, members, "first")
        assert first.claim() == (0, False)
        assert first.claim() == (1, False)
        first.finish(0, b"result")
        others = [leases(tmp_path, members, member.name) for member in (second, third)]
        assert others[0].claim() == (2, False)
        assert others[1].claim() is None  # what the first has is not to be had
        age(members, "first", 31)
        assert others[1].claim() == (1, True)  # and not what is done
        assert others[1].holders(1) == {"first", third.name}
        assert others[0].claim() is None
        others[0].finish(2, b"")
        assert not others[0].all_done()
        others[1].finish(1, b"")
        assert others[0].all_done()
        assert first.result(0) == b"result"


def test_a_claim_without_a_name_is_respected_for_a_sixth_of_a_lease(tmp_path, members):
    """Its process died between the two, or is about to write it."""
    with members.enter() as member:
        own = leases(tmp_path, members, member.name, count=1)
        path = tmp_path / "units" / "claims" / "0.0"
        path.touch()
        assert own.claim() is None
        os.utime(path, (time.time() - 6,) * 2)
        assert own.claim() == (0, True)


def test_who_was_taken_for_dead_does_not_come_back_by_its_signs(tmp_path, members):
    """Its file is gone with the work; it is not made again."""
    members = Members(str(tmp_path / "short"), lease_s=0.1)
    with members.enter() as member:
        os.unlink(os.path.join(members.folder, member.name))
        time.sleep(0.1)
        assert os.listdir(members.folder) == []
