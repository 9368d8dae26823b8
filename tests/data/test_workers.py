# SPDX-License-Identifier: Apache-2.0
"""Workers hang, crash, print and raise: one call is lost by it, with the reason, and no other."""

import fcntl
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from diffnext.data import worker
from diffnext.data.worker import WorkError
from diffnext.data.workers import Pool
from tests.children import LONG_S
from tests.data import odd_work

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pool():
    with Pool(odd_work.work, workers=1, limit_s=LONG_S) as pool:
        yield pool


@pytest.fixture
def many_open_files():
    """More than select can wait for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("the system allows few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
    yield
    for file in files:
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_results_come_back_from_another_process(pool):
    assert pool.submit(("double", 21)).result() == 42
    assert pool.submit(("pid", None)).result() != os.getpid()


def test_arrays_pass_whole_and_can_be_written_to(pool):
    ones, numbers = pool.submit(("ones", 5_000_000)).result()
    assert (ones.sum(), numbers.sum()) == (5_000_000, 625_000 * 624_999 // 2)
    ones[0] = 2
    back = pool.submit(("echo", ones)).result()
    np.testing.assert_array_equal(back, ones)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (("segfault", None), r"the decoder crashed with signal 11 \(SIGSEGV\)$"),
        (("kill", 9), r"signal 9 \(SIGKILL\), as the kernel does where memory runs out$"),
        (("exit", 3), "the decoder ended with exit code 3$"),
        (("raise", "no such codec"), "^OddError: no such codec$"),
    ],
)
def test_a_call_that_fails_says_why_and_the_next_one_works(pool, order, reason):
    failed, after = pool.submit(order), pool.submit(("double", 1))
    with pytest.raises(WorkError, match=reason):
        failed.result()
    assert failed.exception().kind == ("OddError" if order[0] == "raise" else "")
    assert after.result() == 2


@pytest.mark.parametrize("order", [("segfault", None), ("raise", "no"), ("sleep", 600)])
def test_a_call_that_was_sent_ahead_of_a_bad_one_is_made_once(order, tmp_path, monkeypatch):
    """It waits in the pipe of a process that goes away, or stays."""
    monkeypatch.setattr(worker, "QUICK_S", LONG_S)
    with Pool(odd_work.work, workers=1, limit_s=2) as pool:
        pool.submit(("double", 1)).result()  # now the process counts as quick
        bad = pool.submit(order)
        after = [pool.submit(("note", (str(tmp_path / "log"), i))) for i in range(5)]
        with pytest.raises(WorkError):
            bad.result()
        assert [call.result() for call in after] == list(range(5))
    assert (tmp_path / "log").read_text() == "0\n1\n2\n3\n4\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_a_worker_frees_is_used_again(pool):
    pages = (8 << 20) // resource.getpagesize()
    assert pool.submit(("faults", 20)).result() < 2 * pages


def test_large_calls_are_not_sent_ahead(pool, monkeypatch):
    """Both ends would wait for the other to read."""
    monkeypatch.setattr(worker, "QUICK_S", LONG_S)
    block = np.ones(4 << 20, np.uint8)
    calls = [pool.submit(("echo", block)) for _ in range(3)]
    assert all(len(call.result()) == len(block) for call in calls)


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="pipes of one size")
def test_nothing_is_sent_ahead_through_small_pipes(monkeypatch):
    """The kernel gives them to a user who has many, and both ends would wait for the other to read."""
    start_process = worker._start

    def start(limit_s):
        process = start_process(limit_s)
        for pipe in (process.stdin, process.stdout):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        return process

    monkeypatch.setattr(worker, "QUICK_S", LONG_S)
    monkeypatch.setattr(worker, "_start", start)
    with Pool(odd_work.work, workers=1, limit_s=LONG_S) as pool:
        calls = [pool.submit(("echo", bytes(20_000))) for _ in range(5)]
        assert [len(call.result()) for call in calls] == [20_000] * 5


def test_a_call_that_hangs_is_ended_in_time(many_open_files):
    with Pool(odd_work.work, workers=1, limit_s=2) as pool:
        first = pool.submit(("pid", None)).result()
        with pytest.raises(WorkError, match=r"^timed out after 2 s$") as caught:
            pool.submit(("sleep", 2 * LONG_S)).result()
        assert caught.value.kind == "TimeoutError"
        assert not alive(first)
        assert pool.submit(("pid", None)).result() != first


def test_what_a_library_prints_is_no_result(pool, capfd):
    assert pool.submit(("print", "noise from a library")).result() == "noise from a library"
    assert pool.submit(("double", 4)).result() == 8


def test_closing_ends_calls_at_work_and_drops_the_rest():
    pool = Pool(odd_work.work, workers=1, limit_s=2 * LONG_S)
    child = pool.submit(("pid", None)).result()
    calls = [pool.submit(("sleep", 2 * LONG_S)) for _ in range(3)]
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < LONG_S
    assert all(call.cancelled() or call.exception() for call in calls)
    assert not alive(child)
    with pytest.raises(WorkError, match="the workers were ended"):
        pool.submit(("pid", None))


def test_closing_ends_a_process_that_is_being_started(monkeypatch):
    begun, start_process = threading.Event(), worker._start
    pool = Pool(odd_work.work, workers=1, limit_s=2 * LONG_S)

    def slowly(limit_s):
        process = start_process(limit_s)
        begun.set()
        while not pool._workers[0]._stopped:
            time.sleep(0.01)
        return process

    monkeypatch.setattr(worker, "_start", slowly)
    pool.submit(("sleep", 2 * LONG_S))
    assert begun.wait(LONG_S)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < LONG_S


def test_without_workers_calls_are_made_here():
    with Pool(odd_work.work, workers=0, limit_s=1) as pool:
        assert pool.submit(("pid", None)).result() == os.getpid()
        with pytest.raises(WorkError, match="OddError: no such codec"):
            pool.submit(("raise", "no such codec")).result()


def test_work_that_cannot_be_imported_stops_with_advice(tmp_path, monkeypatch):
    (tmp_path / "passing_module.py").write_text("def work(order):\n    return order\n")
    monkeypatch.syspath_prepend(tmp_path)
    import passing_module

    (tmp_path / "passing_module.py").unlink()
    with (
        Pool(passing_module.work, workers=1, limit_s=5) as pool,
        pytest.raises(ValueError, match=r"cannot be started: .* exit code 1; .* with 0 workers"),
    ):
        pool.submit(None).result()


ORPHAN = """
import sys
sys.path.insert(0, sys.argv[1])
from diffnext.data.workers import Pool
from tests.data import odd_work
pool = Pool(odd_work.work, workers=1, limit_s=600)
child = pool.submit(("pid", None)).result()
pool.submit(("print", "at work"))
pool.submit(("sleep", 600))
print(child, flush=True)
sys.stdin.readline()
"""


def test_workers_end_with_a_caller_that_was_killed():
    """At once, while they are at work."""
    command = [sys.executable, "-c", ORPHAN, str(ROOT)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as caller:
        child = int(caller.stdout.readline())
        assert caller.stderr.read(7) == b"at work"
        assert alive(child)
        caller.kill()
    deadline = time.monotonic() + LONG_S
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)
