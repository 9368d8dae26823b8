# SPDX-License-Identifier: Apache-2.0
"""A plan in files: what is read back is what was planned, unit by unit, and nothing else is."""

import os
import pickle

import pytest

from diffnext.data import worklist
from diffnext.data.cache_plan import Task
from diffnext.data.location import Cell, File, TarMember, Url
from diffnext.data.sources import Source
from diffnext.data.views import View
from diffnext.data.worklist import TASKS, WORK, Worklist, clear, create, find
from tests.data.cache_builds import LATENTS, plan_for, write_photos

PLACES = (
    File("a.png"),
    Url("s3://b/c.png"),
    TarMember("t.tar", "n.png", 512, 9),
    Cell("p.parquet", "image", 3, "image"),
)


@pytest.fixture
def plan(tmp_path):
    """Tasks of 1, 2 and 3 samples in turn, in many kinds of places."""
    plan = plan_for(write_photos(tmp_path / "photos"), tmp_path / "cache")
    plan.tasks = []
    for number in range(300):
        source = Source(PLACES[number % 4], caption=f"Number {number}.", captions=("One.", "Two."))
        views = tuple(View(32, 48, flip=flip) for flip in range(1 + number % 3))
        plan.tasks.append(Task(source, views, (number, 5), content="ab" * (number % 2)))
    return plan


def test_all_tasks_are_read_back_and_their_samples_numbered(plan):
    work = create(plan, {"asked": [1]}, leader="one")
    tasks = [task for unit in range(len(work.units)) for task in work.tasks(unit)]
    assert [(t.source, t.stamp, t.content) for t in tasks] == [
        (t.source, t.stamp, t.content) for t in plan.tasks
    ]
    items = [item for task in tasks for item in task.items]
    assert [(i.source, i.view, i.stamp) for i in items] == [
        (i.source, i.view, i.stamp) for i in plan.items
    ]
    assert [item.ticket for item in items] == list(range(600)) == list(range(work.samples))
    for number, unit in enumerate(work.units):
        tickets = [item.ticket for task in work.tasks(number) for item in task.items]
        assert tickets == list(range(unit.ticket, unit.ticket + unit.samples))
        assert {work.unit_of(ticket) for ticket in tickets} == {number}
        assert unit.num_bytes == unit.samples * 32 * 48 * 3
    assert (work.latents, work.fields) == (LATENTS, plan.fields)
    assert (work.asked, work.leader, work.smallest) == ({"asked": [1]}, "one", 32 * 48 * 3)


def test_units_are_bounded_in_bytes(plan, monkeypatch):
    """1 + 2 samples of a size, then 3."""
    monkeypatch.setattr(worklist, "UNIT_BYTES", 3 * 32 * 48 * 3)
    monkeypatch.setattr(worklist, "UNITS", 1)
    work = create(plan, {}, leader="one")
    assert [unit.samples for unit in work.units] == [3] * 200
    assert [len(work.tasks(number)) for number in range(200)] == [2, 1] * 100


def test_even_a_small_plan_is_divided(plan):
    assert worklist.UNITS <= len(create(plan, {}, leader="one").units) <= 300


def test_a_work_that_was_not_written_to_the_end_is_none(plan, monkeypatch):
    def killed(*args, **known):
        raise KeyboardInterrupt

    monkeypatch.setattr(worklist, "write_head", killed)
    monkeypatch.setattr(worklist, "write_ledger", lambda *args: None)
    with pytest.raises(KeyboardInterrupt):
        create(plan, {}, leader="one")
    assert find(plan.output) is None
    assert len(os.listdir(os.path.join(plan.output, WORK))) == 1
    clear(plan.output)
    assert not os.path.exists(os.path.join(plan.output, WORK))


def test_a_work_is_found_until_it_is_discarded(plan):
    work = create(plan, {}, leader="one")
    assert find(plan.output).folder == work.folder
    clear(plan.output)  # of what is no work any more
    assert work.is_there
    work.discard()
    assert find(plan.output) is None and not work.is_there
    with pytest.raises(FileNotFoundError):
        Worklist(work.folder)


def test_nothing_but_tasks_comes_out_of_the_file(plan):
    work = create(plan, {}, leader="one")
    with open(os.path.join(work.folder, TASKS), "wb") as stream:
        pickle.dump(os.system, stream)
    with pytest.raises(pickle.UnpicklingError, match="system, which is no part of a task"):
        Worklist(work.folder)
