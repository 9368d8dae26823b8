# SPDX-License-Identifier: Apache-2.0
"""A disk that is full does not end a run: the older checkpoint stays, the next save tries again."""

import errno
import gc
import os
import shutil
import weakref
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from diffnext.engine import tensors
from diffnext.engine.checkpoint import find_flaw, newest
from diffnext.engine.checkpoint import manager as managers
from diffnext.utils import files
from diffnext.utils.metrics import read_rows
from tests.engine.runs import toy_run

FULL = OSError(errno.ENOSPC, "No space left on device")


def folders(run):
    return sorted(str(path.relative_to(run)) for path in run.glob("*checkpoints/*"))


class Failing:
    """Raises in the calls numbered `at` of those functions that write, the others pass, without waiting."""

    def __init__(self, monkeypatch, *, at):
        self.count, self.at = 0, set(at)
        monkeypatch.setattr(os, "fsync", lambda handle: None)
        for place, name in (
            (tensors, "save_file"),
            (files, "sync_file"),
            (os, "rename"),
            (os, "replace"),
            (Path, "mkdir"),
        ):
            monkeypatch.setattr(place, name, self._around(getattr(place, name)))
        write = tensors.dcp.filesystem._write_files_from_queue
        monkeypatch.setattr(tensors.dcp.filesystem, "_write_files_from_queue", self._around(write))

    def _around(self, function):
        def call(*args, **kwargs):
            self.count += 1
            if self.count in self.at:
                raise FULL
            return function(*args, **kwargs)

        return call


def count_of_writes(folder):
    """How often a save calls functions that write."""
    with pytest.MonkeyPatch.context() as patch:
        failing = Failing(patch, at=())
        trainer = toy_run(folder)
        failing.count = 0
        trainer.hooks[2].manager.save(trainer)
        trainer.hooks[2].manager.wait()
        return failing.count


def test_whatever_write_fails_the_older_checkpoint_stays(tmp_path, monkeypatch, caplog):
    for name in ("run", "count"):
        (tmp_path / name).mkdir()
    toy_run(tmp_path / "run", max_steps=4).train()
    before = folders(tmp_path / "run")
    trainer = toy_run(tmp_path / "run", max_steps=9, background=False)
    trainer.train_step()
    trainer.step += 1
    manager = trainer.hooks[2].manager
    for number in range(1, count_of_writes(tmp_path / "count") + 1):
        with monkeypatch.context() as patch:
            Failing(patch, at=[number])
            manager.save(trainer)
        assert newest(tmp_path / "run").step == (5 if find_5(tmp_path / "run") else 4), number
        if find_5(tmp_path / "run"):  # only its announcement to the disk has failed
            shutil.rmtree(tmp_path / "run/checkpoints/toy_iter_5")
        else:
            with pytest.raises(OSError, match="No space left"):
                manager.finish()
        shutil.rmtree(tmp_path / "run/ema_checkpoints/toy_iter_5", ignore_errors=True)
        assert folders(tmp_path / "run") == before
    assert "GiB are free; older checkpoints stay" in caplog.text
    manager.save(trainer)
    manager.finish()
    assert newest(tmp_path / "run").step == 5


def find_5(run):
    folder = run / "checkpoints/toy_iter_5"
    return folder.exists() and find_flaw(folder) is None


@pytest.mark.parametrize("background", [True, False])
def test_training_goes_on_and_the_next_save_tries_again(tmp_path, monkeypatch, caplog, background):
    Usage = namedtuple("Usage", "total used free")
    space = iter([10**9, 0, 10**9])  # of the saves after steps 2, 4 and 6
    usage = {"free": 0}

    def disk_usage(path):
        if str(path).endswith(".tmp"):
            usage["free"] = next(space)
        return Usage(10**9, 0, usage["free"])

    monkeypatch.setattr(managers.shutil, "disk_usage", disk_usage)
    trainer = toy_run(tmp_path, max_steps=6, snapshot_every=2, background=background)
    trainer.train()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == list(range(1, 7))
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "toy_iter_2",
        "toy_iter_6",
    ]
    assert "toy_iter_4 could not be written: [Errno 28] too little space" in caplog.text
    assert "0.000 GiB are free" in caplog.text


def test_a_run_whose_last_checkpoint_fails_has_failed(tmp_path, monkeypatch):
    trainer = toy_run(tmp_path, max_steps=4, snapshot_every=2)
    monkeypatch.setattr(tensors, "save_file", _full_at_step(4))
    with pytest.raises(OSError, match="No space left"):
        trainer.train()
    assert newest(tmp_path).step == 2


@pytest.mark.parametrize("background", [True, False])
def test_a_save_that_failed_keeps_no_copy_of_the_run(tmp_path, monkeypatch, background):
    trainer = toy_run(tmp_path, background=background)
    manager = trainer.hooks[2].manager
    taken = []

    def take(tensors, take=manager._copies.take):
        copies = take(tensors)
        taken.extend(weakref.ref(copy) for copy in copies.values())
        return copies

    monkeypatch.setattr(manager._copies, "take", take)
    monkeypatch.setattr(tensors, "save_file", _full_at_step(0))
    manager.save(trainer)
    manager.wait()
    with pytest.raises(OSError, match="No space left"):
        manager.finish()
    gc.collect()
    assert bool(taken) == background
    assert not any(copy() is not None for copy in taken)


def test_a_removal_that_breaks_off_is_completed(tmp_path, monkeypatch):
    broken = []

    def rmtree(folder, *args, remove=shutil.rmtree, **options):
        if "toy_iter_1" in str(folder) and "ema" not in str(folder) and not broken:
            broken.append(folder)
            (Path(folder) / "complete.json").unlink()
            raise OSError(errno.EIO, "out of reach")
        remove(folder, *args, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    toy_run(tmp_path, max_steps=3, snapshot_every=1, keep=1).train()
    assert broken
    assert folders(tmp_path) == ["checkpoints/toy_iter_3", "ema_checkpoints/toy_iter_3"]


def test_a_checkpoint_that_is_there_is_no_failure(tmp_path, monkeypatch, caplog):
    def full(run_folder):
        raise OSError(*FULL.args)

    monkeypatch.setattr(managers, "point_at_best", full)
    toy_run(tmp_path, max_steps=2, snapshot_every=2).train()
    assert newest(tmp_path).step == 2
    assert "best.json is old" in caplog.text and "could not be written" not in caplog.text


def _full_at_step(step, save=tensors.save_file):
    def save_file(found, path, **options):
        if f"_iter_{step}" in str(path):
            raise OSError(*FULL.args)
        save(found, path, **options)

    return save_file


def test_another_error_reaches_the_loop(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("a mistake in the code")

    monkeypatch.setattr(tensors, "save_file", broken)
    trainer = toy_run(tmp_path, snapshot_every=2)
    with pytest.raises(KeyError, match="a mistake in the code"):
        trainer.train()
    assert folders(tmp_path) == []


def test_a_limit_of_the_system_is_told_by_its_name(tmp_path):
    resource = pytest.importorskip("resource")
    tensors.save_tensors({"a": torch.zeros(9999)}, tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            tensors.save_tensors({"a": torch.zeros(9999)}, tmp_path / "state")
        net = toy_run(tmp_path).backend.learners["student"].net
        saved = tensors.SavedTensors(tmp_path / "whole")
        with pytest.raises(OSError, match="File too large") as caught:
            tensors.save_network(net, [saved], tmp_path / "net")
        assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_does_not_fit_is_not_begun(tmp_path, monkeypatch):
    trainer = toy_run(tmp_path, background=False)
    sizes = []
    real = managers.shutil.disk_usage
    monkeypatch.setattr(managers, "save_tensors", lambda *a, **k: sizes.append(1))
    monkeypatch.setattr(managers.shutil, "disk_usage", lambda path: real(path)._replace(free=1000))
    manager = trainer.hooks[2].manager
    manager.save(trainer)
    with pytest.raises(OSError, match="too little space"):
        manager.finish()
    assert sizes == []


def test_the_announced_size_is_that_of_the_files(tmp_path):
    trainer = toy_run(tmp_path, max_steps=4)
    trainer.train()
    announced = trainer.hooks[2].manager._job(trainer, score=None).size
    written = sum(
        size
        for kind in ("checkpoints", "ema_checkpoints")
        for size in files.sizes(tmp_path / kind / "toy_iter_4").values()
    )
    headers = 2500 * len(trainer.hooks[2].manager.content.tensors(trainer, begin=0))
    assert announced < written < announced + headers
