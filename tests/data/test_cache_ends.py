# SPDX-License-Identifier: Apache-2.0
"""Builds that are interrupted, killed, or get into each other's way: nothing is lost or doubled."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffnext.data.cache import build
from diffnext.data.journal import JOURNAL
from diffnext.data.records import open_reader
from diffnext.data.records.lock import LOCK
from tests.data.cache_builds import (
    assert_complete,
    encode,
    interrupting,
    plan_for,
    run,
    write_picture,
)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_build_goes_on(photos, tmp_path, after):
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "cache", encoder=interrupting(after))
    assert run(photos, tmp_path / "cache").written == 7 - 3 * after
    assert_complete(photos, tmp_path / "cache")


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from diffnext.data.records import folder_writer
from tests.data import cache_builds
write, count = folder_writer.FolderWriter.write, 0
def kill(self, record):
    global count
    if count == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    write(self, record)
folder_writer.FolderWriter.write = kill
cache_builds.run(Path(sys.argv[2]), sys.argv[3])
"""


WAITING = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.data import cache_builds
def encoder(frames):
    if not told:
        told.append(print("at work", flush=True))
        sys.stdin.readline()
    return cache_builds.encode(frames)
told = []
assert cache_builds.run(Path(sys.argv[2]), sys.argv[3], encoder=encoder).written == 7
"""


MANY_DEATHS = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from diffnext.data.records import folder_writer
from tests.data import cache_builds
write = folder_writer.FolderWriter.write
def slow_write(self, record):
    time.sleep(0.005)
    write(self, record)
folder_writer.FolderWriter.write = slow_write
def encoder(frames):
    while os.path.getsize(sys.argv[4]) > target + 2:  # a slow parent kills no less
        time.sleep(0.001)
    with open(sys.argv[4], "ab", buffering=0) as log:
        log.write(b"." * len(frames))
    time.sleep(0.005)
    return cache_builds.encode(frames)
random.seed(0)
open(sys.argv[4], "wb").close()
deaths = 0
while True:
    target = os.path.getsize(sys.argv[4]) + random.randrange(0, 8, 2)  # encoded by this child
    child = os.fork()
    if not child:
        cache_builds.run(Path(sys.argv[2]), sys.argv[3], encoder=encoder, batch_size=2)
        os._exit(0)
    ended = (0, 0)
    while os.path.getsize(sys.argv[4]) < target and not ended[0]:
        ended = os.waitpid(child, os.WNOHANG)
    if not ended[0]:
        time.sleep(random.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(ended[1]) == 0:
        break
    deaths += 1
print(deaths)
"""


def test_a_build_that_is_killed_at_any_moment_ends_like_one_that_is_not(photos, tmp_path):
    """Killed while it plans, encodes or writes, which takes longer, over and over."""
    for number in range(10, 30):
        write_picture(photos, f"p{number}", number)
    root, killed, log = str(Path(__file__).parents[2]), tmp_path / "killed", tmp_path / "log"
    command = [sys.executable, "-c", MANY_DEATHS, root, str(photos), str(killed), str(log)]
    deaths = int(subprocess.run(command, check=True, capture_output=True).stdout)
    run(photos, tmp_path / "whole")
    left, right = open_reader(killed), open_reader(tmp_path / "whole")
    assert len(left) == len(right) == 27
    assert [left[i] for i in range(27)] == [right[i] for i in range(27)]
    journals = [(tmp_path / name / JOURNAL).read_bytes() for name in ("killed", "whole")]
    assert journals[0] == journals[1]
    assert deaths >= 3
    again = log.stat().st_size - 27
    assert 0 < again <= 2 * deaths  # the batch that was being encoded or written
    assert run(photos, killed).written == 0


@pytest.mark.parametrize("after", [0, 4])
def test_a_killed_build_loses_and_doubles_nothing(photos, tmp_path, after):
    """Killed between the journal and the record, the worst place."""
    root, output = str(Path(__file__).parents[2]), tmp_path / "cache"
    command = [sys.executable, "-c", KILLED, root, str(photos), str(output), str(after)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert run(photos, output).written == 7 - after
    assert_complete(photos, output)
    assert run(photos, output).written == 0


def test_a_second_build_is_refused_while_one_is_at_work(photos, tmp_path):
    refusals = []

    def encoder(frames):
        with pytest.raises(ValueError, match="is being written to by process") as caught:
            run(photos, tmp_path / "cache")
        refusals.append(caught.value)
        return encode(frames)

    assert run(photos, tmp_path / "cache", encoder=encoder).written == 7
    assert len(refusals) == 3
    assert_complete(photos, tmp_path / "cache")
    assert not (tmp_path / "cache" / LOCK).exists()


def test_a_plan_that_another_build_made_out_of_date_is_refused(photos, tmp_path):
    first, second = plan_for(photos, tmp_path / "cache"), plan_for(photos, tmp_path / "cache")
    build(first, encode, workers=0)
    with pytest.raises(ValueError, match="changed by another build after this one was planned"):
        build(second, encode, workers=0)
    assert_complete(photos, tmp_path / "cache")


def test_two_processes_cannot_build_at_once(photos, tmp_path):
    """The second, while the first is held between two batches: refused, and nothing is lost."""
    root, output = str(Path(__file__).parents[2]), tmp_path / "cache"
    command = [sys.executable, "-c", WAITING, root, str(photos), str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"at work\n"
        with pytest.raises(ValueError, match=f"is being written to by process {child.pid} on"):
            run(photos, output)
        child.communicate(b"go on\n")
    assert child.returncode == 0
    assert_complete(photos, output)
