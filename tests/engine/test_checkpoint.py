# SPDX-License-Identifier: Apache-2.0
"""A run that was interrupted goes on as if it had not been; what is torn is not used."""

import errno
import shutil
import threading
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter

from diffnext.distributed import env as processes
from diffnext.distributed.side import SideChannel
from diffnext.engine import tensors
from diffnext.engine.checkpoint import find, newest, staging
from diffnext.engine.checkpoint import manager as managers
from diffnext.engine.hooks.heartbeat import phase_of
from diffnext.engine.tensors import SavedTensors
from diffnext.utils.metrics import read_rows
from tests.children import LONG_S
from tests.engine.runs import Interrupted, toy_run
from tests.engine.toy import ToyNet

pytestmark = pytest.mark.usefixtures("no_waiting_for_disks")


def finish(folder, **options):
    folder.mkdir(exist_ok=True)
    trainer = toy_run(folder, **options)
    trainer.train()
    return trainer


def rows(folder):
    names = ("step", "loss", "lr", "grad_norm", "skipped")
    return [{n: row[n] for n in names} for row in read_rows(folder / "metrics.jsonl")]


def interrupt(folder, *, at: int, **options):
    """Run until `at` steps are done, then break off."""
    folder.mkdir(exist_ok=True)
    with pytest.raises(Interrupted):
        toy_run(folder, stop_at=at, **options).train()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accum": 2, "optimizer": "RAdam"},
        {"precision": "float16", "bad": [9, 17]},
        {"optimizer": "SGD", "max_norm": 0.0},
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, options):
    whole = finish(tmp_path / "whole", **options)
    interrupt(tmp_path / "cut", at=6, **options)
    resumed = toy_run(tmp_path / "cut", **options)
    assert resumed.step == 4
    resumed.train()
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    for name, value in whole.backend.weights("student").items():
        assert torch.equal(value, resumed.backend.weights("student")[name]), name
    for name, value in whole.hooks[1].ema.tensors().items():
        assert torch.equal(value, resumed.hooks[1].ema.tensors()[name]), name


def test_others_load_the_weights_and_their_average(tmp_path):
    trainer = finish(tmp_path)
    live = ToyNet.from_pretrained(tmp_path / "checkpoints/toy_iter_8/transformer")
    weights = trainer.backend.weights("student")
    assert all(torch.equal(value, weights[name]) for name, value in live.state_dict().items())
    average = ToyNet.from_pretrained(tmp_path / "ema_checkpoints/toy_iter_8/transformer")
    ema = trainer.hooks[1].ema.tensors()
    assert set(weights) - set(ema) == {"offset", "scale"}
    for name, value in average.state_dict().items():
        assert torch.equal(value, ema.get(name, weights[name]))
    assert not torch.equal(live.head.weight, average.head.weight)


def test_names_in_the_state(tmp_path):
    finish(tmp_path, precision="float16")
    saved = SavedTensors(tmp_path / "checkpoints/toy_iter_8/state").shapes()
    for name in (
        "roles.student.transformer.blocks.0.0.weight",
        "roles.student.transformer.offset",
        "optimizers.student.blocks.0.0.weight.exp_avg_sq",
        "optimizers.student.blocks.0.0.weight.step",
        "scalers.student.scale",
        "ema.student.transformer.head.bias",
    ):
        assert name in saved
    assert "optimizers.student.scale.exp_avg" not in saved  # frozen


@pytest.mark.parametrize("damage", ["marker", "missing", "short"])
def test_a_torn_checkpoint_is_passed_over_and_named(tmp_path, damage, caplog):
    finish(tmp_path)
    torn = tmp_path / "checkpoints/toy_iter_8"
    weights = torn / "transformer/diffusion_pytorch_model.safetensors"
    if damage == "marker":
        (torn / "complete.json").unlink()
    elif damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1])
    with caplog.at_level("WARNING", logger="diffnext"):
        assert newest(tmp_path).step == 4
    assert "passing over" in caplog.text and "toy_iter_8" in caplog.text


def test_a_run_trains_on_over_a_torn_checkpoint(tmp_path):
    finish(tmp_path / "whole")
    finish(tmp_path / "torn")
    (tmp_path / "torn/checkpoints/toy_iter_8/complete.json").unlink()
    finish(tmp_path / "torn")
    assert newest(tmp_path / "torn").step == 8
    assert rows(tmp_path / "torn") == rows(tmp_path / "whole")
    for folder in ("checkpoints", "ema_checkpoints"):
        names = sorted(path.name for path in (tmp_path / "torn" / folder).iterdir())
        assert names == ["toy_iter_4", "toy_iter_8"]


def test_a_complete_checkpoint_is_not_overwritten(tmp_path):
    finish(tmp_path)
    trainer = toy_run(tmp_path)
    manager = trainer.hooks[2].manager
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*iter_8/**/*")}
    manager.save(trainer)
    with pytest.raises(FileExistsError, match=r"exists and is not overwritten.*toy_iter_8"):
        manager.wait()
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*iter_8/**/*")}


def test_other_processes_hear_that_the_first_could_not_write(tmp_path, monkeypatch):
    told = []

    def send(self, value):
        told.append(value)
        return value

    monkeypatch.setattr(SideChannel, "_from_first", send)
    trainer = toy_run(tmp_path, background=False)
    (tmp_path / "checkpoints").touch()  # a file where a folder should be
    with pytest.raises(NotADirectoryError):
        trainer.hooks[2].manager.save(trainer)
    assert told == [(errno.ENOTDIR, "Not a directory (on the first process)")]
    monkeypatch.setattr(processes, "rank", lambda: 1)
    monkeypatch.setattr(SideChannel, "_from_first", lambda self, value: told[0])
    with pytest.raises(NotADirectoryError, match=r"Not a directory \(on the first process\)"):
        trainer.hooks[2].manager.save(trainer)


def test_what_a_killed_save_leaves_is_not_used(tmp_path):
    finish(tmp_path, max_steps=4)
    left = tmp_path / "checkpoints/.toy_iter_8.tmp/state"
    left.mkdir(parents=True)
    (left / "garbage").write_text("x")
    shutil.copytree(
        tmp_path / "ema_checkpoints/toy_iter_4", tmp_path / "ema_checkpoints/toy_iter_8"
    )
    assert newest(tmp_path).step == 4
    finish(tmp_path, max_steps=8)
    assert newest(tmp_path).step == 8
    assert not left.exists()


def test_where_a_run_starts(tmp_path):
    assert find("auto", tmp_path) is None
    assert find("none", tmp_path) is None
    first = tmp_path / "first"
    finish(first)
    assert find("auto", first).step == 8
    assert find(str(first), tmp_path).step == find(str(first / "checkpoints"), tmp_path).step == 8
    assert find(str(first / "checkpoints/toy_iter_4"), tmp_path).step == 4
    assert find(str(first / "checkpoints/toy_iter_4"), "").step == 4
    with pytest.raises(ValueError, match=r"TRAIN.RESUME is 'none', but .* up to step 8"):
        find("none", first)
    with pytest.raises(ValueError, match=r"TRAIN.RESUME is .*nowhere.*no complete checkpoint"):
        find(str(tmp_path / "nowhere"), tmp_path)


def test_a_repeated_command_does_not_go_back_to_where_it_began(tmp_path):
    finish(tmp_path / "first")
    begin = {"resume": str(tmp_path / "first/checkpoints/toy_iter_4"), "snapshot_every": 2}
    interrupt(tmp_path / "second", at=7, **begin)
    assert toy_run(tmp_path / "second", **begin).step == 6
    finish(tmp_path / "second", **begin)
    assert rows(tmp_path / "second") == rows(tmp_path / "first")[4:]
    interrupt(tmp_path / "third", at=6)
    assert toy_run(tmp_path / "third", resume=str(tmp_path / "first")).step == 8  # is further


@pytest.mark.parametrize(("before", "after"), [("float32", "float16"), ("float16", "bfloat16")])
def test_the_precision_may_change_on_the_way(tmp_path, caplog, before, after):
    interrupt(tmp_path, at=4, precision=before)
    with caplog.at_level("WARNING", logger="diffnext"):
        trainer = finish(tmp_path, precision=after)
    assert [row["step"] for row in rows(tmp_path) if not row["skipped"]] == list(range(1, 9))
    scaler = trainer.backend.learners["student"].scaler
    if after == "float16":
        assert "no loss scale; that of float16 begins anew" in caplog.text
        assert (scaler.scale, scaler.good_steps) == (2.0**16, 4)
    else:
        assert scaler is None


def test_only_the_last_ones_are_kept(tmp_path):
    finish(tmp_path, snapshot_every=2, keep=2)
    for folder in ("checkpoints", "ema_checkpoints"):
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == ["toy_iter_6", "toy_iter_8"]


def test_what_is_written_beside_the_steps_does_not_move_with_them(tmp_path, monkeypatch):
    """The loop goes on to its end before the first byte of the first checkpoint is written."""
    go_on = threading.Event()
    write = managers.save_tensors

    def late(*args, **kwargs):
        assert go_on.wait(LONG_S)
        write(*args, **kwargs)

    trainer = toy_run(tmp_path, snapshot_every=5)
    step = trainer.train_step

    def last_sets_it_free():
        if trainer.step == 7:
            go_on.set()
        return step()

    trainer.train_step = last_sets_it_free
    monkeypatch.setattr(managers, "save_tensors", late)
    trainer.train()
    finish(tmp_path / "plain", snapshot_every=5, background=False)
    for folder in ("toy_iter_5", "toy_iter_8"):
        saved = SavedTensors(tmp_path / "checkpoints" / folder / "state").full()
        plain = SavedTensors(tmp_path / "plain/checkpoints" / folder / "state").full()
        assert set(saved) == set(plain)
        assert all(torch.equal(saved[name], plain[name]) for name in plain)


def test_it_is_told_whose_part_of_a_checkpoint_is_waited_for(tmp_path, monkeypatch):
    trainer = toy_run(tmp_path, max_steps=1, background=False)
    seen = [phase_of(trainer)]

    def spy(owner, name):
        real = getattr(owner, name)

        def told(*args, **kwargs):
            seen.append((name, phase_of(trainer)))
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, told)

    spy(SideChannel, "total")  # is a message
    spy(FileSystemWriter, "write_data")
    spy(managers, "publish")
    trainer.train()
    assert seen == ["hooks", ("total", "saved"), ("write_data", "saving"), ("publish", "saving")]
    assert phase_of(trainer) == "hooks"


def test_a_host_without_memory_for_a_copy_saves_between_the_steps(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(staging, "available_bytes", lambda: 1000)
    finish(tmp_path)
    assert newest(tmp_path).step == 8
    assert caplog.text.count("lacks memory for a copy of the run; training waits") == 2
    assert "could not be written" not in caplog.text
    sizes = {"numel": lambda: 3000, "element_size": lambda: 4}
    assert staging.copy_bytes(SimpleNamespace(**sizes, is_cuda=False)) == 12000
    assert staging.copy_bytes(SimpleNamespace(**sizes, is_cuda=True)) == 2**14  # page-locked


def test_a_checkpoint_of_another_network_is_refused(tmp_path, monkeypatch):
    finish(tmp_path)
    monkeypatch.setattr("tests.engine.runs.toy_net", lambda seed: ToyNet(depth=3))
    with pytest.raises(ValueError, match=r"does not fit role 'student'.*blocks\.2"):
        toy_run(tmp_path, max_steps=9)


def test_a_network_is_written_and_read_a_file_at_a_time(tmp_path, monkeypatch):
    sizes, read = [], SavedTensors.read

    def spy(self, found):
        sizes.append([tensor.nbytes for tensor in found.values()])
        read(self, found)

    trainer = toy_run(tmp_path, max_steps=2, snapshot_every=2)
    monkeypatch.setattr(tensors, "SHARD_SIZE", "1KB")
    monkeypatch.setattr(SavedTensors, "read", spy)
    trainer.train()
    assert len(sizes) > 4
    assert all(sum(found) <= 1000 or len(found) == 1 for found in sizes)
    weights, average = trainer.backend.weights("student"), trainer.hooks[1].ema.tensors()
    for folder, wanted in (("checkpoints", weights), ("ema_checkpoints", weights | average)):
        net = ToyNet.from_pretrained(tmp_path / folder / "toy_iter_2/transformer")
        assert net.state_dict().keys() == wanted.keys()
        for name, value in net.state_dict().items():
            assert torch.equal(value, wanted[name]), name
