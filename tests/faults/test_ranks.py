# SPDX-License-Identifier: Apache-2.0
"""Processes that build one cache together and die, sleep or come late: nothing is lost or doubled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffnext.data.cache_ranks import settle
from diffnext.data.prompt_cache import embeddings_in
from diffnext.data.prompt_store import STORE
from diffnext.data.records import open_reader
from diffnext.data.worklist import WORK, find
from tests.data.cache_builds import plan_for, records, run, write_photos, write_picture
from tests.data.texts import states_of

ROOT = Path(__file__).parents[2]
COUNT = 47
SCENARIOS = ("deaths", "all_at_once", "sleeper", "prompts")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, and the cache of a build that nothing happened to."""
    folder = tmp_path_factory.mktemp("ranks")
    photos = write_photos(folder / "photos")
    for number in range(10, 50):
        write_picture(photos, f"p{number}", number)
    assert run(photos, folder / "whole").written == COUNT
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """What came of the scenarios, all in one process: its imports take longer than they do."""
    command = [sys.executable, "-m", "tests.faults.forks", str(folder), *SCENARIOS]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def assert_like_the_whole_one(folder, name):
    """Record by record, by the captions, which are all different; and there is nothing left to do."""
    output = folder / name
    assert find(str(output)) is None
    left, wanted = records(output), records(folder / "whole")
    assert left.keys() == wanted.keys()
    assert all((left[caption] == wanted[caption]).all() for caption in wanted)
    assert open_reader(output).checked == COUNT
    plan = plan_for(folder / "photos", output)
    assert (plan.present, plan.items, plan.stale, plan.finished) == (COUNT, [], {}, True)
    settle(str(output))  # removes what one left behind that was killed while it did so
    assert not (output / WORK).exists()


def test_processes_that_die_one_after_another(folder, found):
    """Three at work at any time; the next build, or one of the others, goes on for those killed."""
    deaths = found["deaths"]
    assert_like_the_whole_one(folder, "deaths")
    assert deaths["killed"] >= 8
    assert (
        deaths["encoded"] - COUNT <= 4 * deaths["killed"]
    )  # a batch in hand, and one being written
    assert set(deaths["codes"]) == {0}


def test_processes_that_die_at_once(folder, found):
    """As when a node fails or a job is cancelled; two or three at a time."""
    deaths = found["all_at_once"]
    assert_like_the_whole_one(folder, "all_at_once")
    assert deaths["killed"] >= 12
    assert deaths["encoded"] - COUNT <= 4 * deaths["killed"]
    assert deaths["codes"] == [0]


def test_processes_that_embed_prompts_and_die(folder, found):
    """In both phases; what was embedded or encoded by one that died is not made again."""
    deaths, output = found["prompts"], folder / "prompts"
    assert set(deaths["codes"]) == {0} and min(deaths["phases"]) >= 1
    assert deaths["encoded"] - COUNT <= 4 * deaths["killed"]
    # its batch, and where it led those of two others, whom another leader made begin anew
    assert 0 <= deaths["embedded"] - 2 * COUNT <= 6 * deaths["killed"]
    wanted, reader = records(folder / "whole"), open_reader(output)
    for number in range(len(reader)):
        record = reader[number]
        assert bytes(record["moments"]) == wanted.pop(record["words"][0]).tobytes()
        for text, one in zip(record["words"], embeddings_in(record), strict=True):
            assert bytes(one["data"]) == states_of(text).tobytes()
    assert not wanted and find(str(output)) is None
    assert not (output / STORE).exists()


def test_a_process_that_sleeps_longer_than_its_lease(folder, found):
    """Others do what it had, and join without it; when it wakes, what it does harms nothing."""
    sleeper = found["sleeper"]
    assert_like_the_whole_one(folder, "sleeper")
    assert sleeper["codes"] == [0, 0]
    assert COUNT <= sleeper["encoded"] <= COUNT + 4
    assert sleeper["after"] <= 2  # the batch that it had in hand
