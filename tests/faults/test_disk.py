# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, wherever it is: the build says so, and goes on from there when there is room."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.cache_builds import write_photos
from tests.faults.disk import FULL

ROOT = Path(__file__).parents[2]
ALONE = [
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
]  # what is mounted is gone with the process


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Of each scenario exit codes by the room that there was, and whether each cache was whole at last."""
    folder = tmp_path_factory.mktemp("disk")
    write_photos(folder / "photos")
    may_mount = (
        shutil.which("unshare") and not subprocess.run([*ALONE, "true"], check=False).returncode
    )
    start, names = (ALONE, ["full", "large"]) if may_mount else ([], ["large"])
    command = [*start, sys.executable, "-m", "tests.faults.disk", str(folder), *names]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def check(builds):
    for codes, whole in builds:  # alone, and as one of many
        assert set(codes) == {0, FULL}
        assert codes[0] == FULL and codes[-1] == 0
        assert codes.count(FULL) >= 3
        assert all(whole)


def test_a_full_disk(found):
    """Page by page, on a file system in memory."""
    if "full" not in found:
        pytest.skip("this process may mount nothing")
    check(found["full"])


def test_a_limit_of_the_size_of_files(found):
    """A write that takes a part of what it is given, then none."""
    check(found["large"])
