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


def build_on(scenario, folder, *prefix):
    """Exit codes by the room that there was, and whether each cache was whole in the end."""
    write_photos(folder / "photos")
    command = [*prefix, sys.executable, "-m", "tests.faults.disk", str(folder), scenario]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def check(found):
    for codes, whole in found:  # of a build alone, and as one of many
        assert set(codes) == {0, FULL}
        assert codes[0] == FULL and codes[-1] == 0
        assert codes.count(FULL) >= 4
        assert all(whole)


def test_a_full_disk(tmp_path):
    """Page by page, on a file system in memory."""
    if (
        not shutil.which("unshare")
        or subprocess.run([*ALONE, "true"], capture_output=True).returncode
    ):
        pytest.skip("this process may mount nothing")
    check(build_on("full", tmp_path, *ALONE))


def test_a_limit_of_the_size_of_files(tmp_path):
    """A write that takes a part of what it is given, then none."""
    check(build_on("large", tmp_path))
