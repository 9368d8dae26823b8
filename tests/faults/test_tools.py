# SPDX-License-Identifier: Apache-2.0
"""Tools that make caches of others, killed at any step: what has its name is whole, the rest is removed."""

import os
import shutil
import signal
import warnings
from itertools import count

import pytest

from diffnext.data.records import open_reader
from diffnext.data.tools.algebra import merge_caches, split_cache
from tests.data.cache_builds import run, write_photos, write_picture
from tests.faults.forks import ended

STEPS = ("mkdir", "rename", "replace", "rmdir", "unlink")  # after which a folder is another
SPLIT = [0.5, 0.5]


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Two, of seven records and of one."""
    folder = tmp_path_factory.mktemp("tools")
    run(write_photos(folder / "photos"), folder / "large")
    (folder / "one").mkdir()
    write_picture(folder / "one", "p9", 9)
    run(folder / "one", folder / "small")
    return str(folder / "large"), str(folder / "small")


def contents(path):
    """All bytes of all records of a finished folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader = open_reader(path)
    return [reader.raw(number)[0] for number in range(len(reader))]


def dies(step, work):
    """Do the work in a child that is killed before one of its steps; whether it got that far."""
    child = os.fork()
    if child:
        code = ended(child)
        assert code in (0, -signal.SIGKILL)
        return code != 0
    left, code = count(-step), 1

    def deadly(call):
        def step(*args, **options):
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return step

    try:
        for name in STEPS:
            setattr(os, name, deadly(getattr(os, name)))
        work()
        code = 0
    finally:
        os._exit(code)


@pytest.mark.parametrize(
    ("tool", "names"),
    [
        (lambda large, small, out: merge_caches([large, small], out[0]), ["a"]),
        (lambda large, small, out: split_cache(large, out, SPLIT), ["a", "b"]),
    ],
    ids=["merge", "split"],
)
def test_a_tool_is_killed_at_any_step(caches, tmp_path, tool, names):
    outputs = [str(tmp_path / name) for name in names]

    def work():
        tool(*caches, outputs)

    work()
    wanted = {path: contents(path) for path in outputs}
    clear(outputs)
    for step in count(0, len(names)):  # every step of one, every other of two
        died = dies(step, work)
        assert all(contents(path) == wanted[path] for path in filter(os.path.exists, outputs))
        if not died:
            break
        clear(outputs)
        work()
        assert {path: contents(path) for path in outputs} == wanted
        assert sorted(os.listdir(tmp_path)) == names
        clear(outputs)
    assert step > 10


def clear(outputs):
    for path in outputs:
        shutil.rmtree(path, ignore_errors=True)
