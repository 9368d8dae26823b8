# SPDX-License-Identifier: Apache-2.0
"""Builds on a disk that is full after so many pages, or that takes no larger files; then on with room.

`python -m tests.faults.disk FOLDER SCENARIO ...`, of `full` and `large`: photos are in FOLDER/photos. For
`full`, a disk of 400 kB is mounted on FOLDER/disk, so the process must be allowed to. What was found is
printed as JSON.
"""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

from diffnext.data import cache_part, cache_ranks
from diffnext.data.records import open_reader
from tests.data import cache_builds
from tests.faults.forks import ended

FULL = 3
cache_part.POLL_S = cache_ranks.POLL_S = 0.01


def alone(photos, output):
    cache_builds.run(photos, output)


def shared(photos, output):
    """As one of many, of whom the others did not come."""
    tools = cache_part.Tools(lambda: cache_builds.encode, batch_size=3, workers=0)
    with cache_ranks.lock_of(str(output)) as lock:
        cache_ranks.settle(str(output), tell=lambda text: None)
        plan = cache_builds.plan_for(photos, output)
        if plan.tasks:
            cache_ranks.build_shared(plan, tools, lock=lock, asked={})


def child(build, photos, output, limit=None):
    """Build in a child; 0, or FULL where the disk was the reason, or 1."""
    pid = os.fork()
    if pid:
        return ended(pid)
    code = 1
    try:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        build(photos, output)
        code = 0
    except OSError as error:
        code = FULL if error.errno in (errno.ENOSPC, errno.EFBIG) else 1
    finally:
        if code == 1:
            traceback.print_exc()
        os._exit(code)


def is_whole(photos, output, wanted):
    """Whether each photo is there once, with its checksum, and nothing is left to do."""
    found = cache_builds.records(output)
    plan = cache_builds.plan_for(photos, output)
    return (
        found.keys() == wanted.keys()
        and all((found[caption] == wanted[caption]).all() for caption in wanted)
        and open_reader(output).checked == len(wanted)
        and not plan.is_due
    )


def full(folder, build, wanted):
    """Leave more and more room."""
    codes, whole = [], []
    for pages in (0, 1, 2, 4, 8, 16, 48):
        disk = folder / "disk"
        shutil.rmtree(disk / "cache", ignore_errors=True)
        free = os.statvfs(disk).f_bavail - pages
        (disk / "filler").write_bytes(bytes(free * os.statvfs(disk).f_bsize))
        codes.append(child(build, folder / "photos", disk / "cache"))
        (disk / "filler").unlink()
        whole.append(child(build, folder / "photos", disk / "cache") == 0)
        whole.append(is_whole(folder / "photos", disk / "cache", wanted))
    return codes, whole


def large(folder, build, wanted):
    """Let files be larger and larger."""
    codes, whole = [], []
    for number, limit in enumerate((0, 300, 900, 2000, 3200, 10**6)):
        output = folder / f"{build.__name__}{number}"
        codes.append(child(build, folder / "photos", output, limit))
        whole.append(child(build, folder / "photos", output) == 0)
        whole.append(is_whole(folder / "photos", output, wanted))
    return codes, whole


if __name__ == "__main__":
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    if "full" in names:
        (folder / "disk").mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder / "disk")]
        subprocess.run(command, check=True)
    wanted = cache_builds.expected(folder / "photos")
    found = {
        name: [globals()[name](folder, build, wanted) for build in (alone, shared)]
        for name in names
    }
    print(json.dumps(found))
