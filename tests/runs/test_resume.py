# SPDX-License-Identifier: Apache-2.0
"""The training command, killed wherever it may be, goes on as if nothing had been."""

import os
import random

import pytest
import torch
from safetensors.torch import load_file

from diffnext.data.records import open_reader, open_writer
from diffnext.engine.checkpoint import newest
from diffnext.engine.tensors import SavedTensors
from diffnext.utils.files import sizes
from diffnext.utils.metrics import read_rows
from tests.runs.forks import mount
from tests.runs.tiny_nova import make_run

STEPS = 8
OPTIONS = {
    "SOLVER.MAX_STEPS": STEPS,
    "SOLVER.SNAPSHOT_EVERY": 2,
    "SOLVER.SNAPSHOT_KEEP": 2,
    "SOLVER.SNAPSHOT_KEEP_EVERY": 6,
    "SOLVER.LR_POLICY": "cosine_decay",
    "SOLVER.CLIP_GRAD": 1.0,
    "TRAIN.EXTRA_EMA": [0.5],
}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("model"), "t2i", **OPTIONS)


@pytest.fixture
def train(server, config, tmp_path):
    """Run the command in a folder by name; a code that is neither 0 nor a kill fails the test."""

    def run(name, *arguments, code=0, **how):
        log = tmp_path / f"{name}.log"
        codes = server.train(
            "--cfg", config, "--exp-dir", tmp_path / name, *arguments, log=log, **how
        )
        first = {0, -9} if "kill_at" in how else {-9} if "kill_in_step" in how else {code}
        assert codes[0] in first, log.read_text()[-5000:]
        assert codes[0] == -9 or set(codes) == {codes[0]}  # of a killed one the others complain
        return codes[0]

    return run


@pytest.fixture(scope="module")
def whole(server, config, tmp_path_factory):
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    log = folder / "log"
    codes = server.train("--cfg", config, "--exp-dir", folder / "run", log=log)
    assert codes == [0], log.read_text()[-5000:]
    return folder / "run"


def rows(run):
    names = ("step", "loss", "lr", "grad_norm")
    return [[row[name] for name in names] for row in read_rows(run / "logs/metrics.jsonl")]


def final_tensors(run):
    """All that the last checkpoint holds: weights, optimizer, averages; and what others load of it."""
    name = f"tiny_iter_{STEPS}"
    found = SavedTensors(run / "checkpoints" / name / "state").full()
    for kind in ("checkpoints", "ema_checkpoints", "ema_0.5_checkpoints"):
        exported = load_file(run / kind / name / WEIGHTS)
        found |= {f"{kind}/{key}": value for key, value in exported.items()}
    return found


def assert_same(run, whole, **tolerance):
    """Losses, rates, norms and all tensors; bit for bit if no tolerance is given."""
    tolerance = tolerance or {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(torch.tensor(rows(run)), torch.tensor(rows(whole)), **tolerance)
    mine, wanted = final_tensors(run), final_tensors(whole)
    assert set(mine) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(
            mine[name], value, **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_killed_anywhere_it_goes_on_bit_for_bit(train, whole, tmp_path):
    """Some twenty times, in steps and in saves, then to the end."""
    train("run", kill_in_step=2)  # before the first save
    choose, kills, in_saves = random.Random(0), 1, 0
    for _ in range(20):
        if train("run", kill_at=choose.randint(1, 60)) != -9:
            break
        kills += 1
        in_saves += any((tmp_path / "run/checkpoints").glob(".*.tmp"))
    train("run")
    assert kills >= 5 and in_saves >= 2
    assert_same(tmp_path / "run", whole)
    for kind in ("checkpoints", "ema_checkpoints", "ema_0.5_checkpoints"):
        assert set(names(tmp_path / "run" / kind)) >= {"tiny_iter_6", "tiny_iter_8"}
        assert not list((tmp_path / "run" / kind).glob(".*"))
    log = (tmp_path / "run.log").read_text()
    assert log.count("resumed from") >= 3 and "loaded" in log


def test_another_split_of_the_global_batch_is_the_same_run(train, whole, tmp_path):
    train("run", kill_in_step=7)
    assert newest(tmp_path / "run").step in (4, 6)
    train("run", "TRAIN.BATCH_SIZE", 1, "SOLVER.ACCUM_STEPS", 4)
    assert_same(tmp_path / "run", whole, rtol=1e-3, atol=1e-4)
    assert (
        "changed since the checkpoint: TRAIN.BATCH_SIZE: 4 in" in (tmp_path / "run.log").read_text()
    )


def test_a_cache_of_other_records_is_refused(train, whole, config, tmp_path):
    reader = open_reader(config.parent / "cache")
    with open_writer(tmp_path / "cache", reader.fields) as writer:
        for row in [*range(1, len(reader)), 0]:
            writer.write(reader[row])
    begin = ["--resume", whole / "checkpoints/tiny_iter_6"]
    train("run", *begin, "TRAIN.DATASET", tmp_path / "cache", code=2)
    said = (tmp_path / "run.log").read_text()
    assert "dataset 0: as many records of the same shapes, but not the same records" in said


def test_what_begins_anew_is_done_once_and_kept(train, whole, tmp_path):
    begin = ["--resume", whole / "checkpoints/tiny_iter_6", "SOLVER.MAX_STEPS", 11]
    other = ["TRAIN.BATCH_SIZE", 2, "SOLVER.OPTIMIZER", "SGD", "TRAIN.EXTRA_EMA", "[0.7]"]
    train("run", *begin, *other, code=2)
    assert (
        "'AdamW' in the checkpoint, 'SGD' now; restore it, or" in (tmp_path / "run.log").read_text()
    )
    anew = ["--reset-optimizer", "--reset-lr"]
    train("run", *begin, *other, *anew, code=2)
    said = (tmp_path / "run.log").read_text()
    assert "holds the averages ['ema', 'ema_0.5']" in said and "['ema', 'ema_0.7']" in said
    anew.append("--reset-ema")
    train("run", *begin, *other, *anew, code=2)
    said = (tmp_path / "run.log").read_text()
    assert "global_batch: 4 in the checkpoint, 2 now" in said and "--reset-data" in said
    assert not (tmp_path / "run").exists()

    command = [*begin, *other, *anew, "--reset-data"]
    train("run", *command, kill_in_step=5)
    train("run", *command)
    begun = newest(tmp_path / "run").run()
    assert begun["resets"] == dict.fromkeys(("lr", "optimizer", "ema", "data"), 6)
    assert begun["loader"]["step"] == 11 and begun["loader"]["global_batch"] == 2
    # the course of five steps: two of warm-up to BASE_LR, then half a cosine wave
    rates = [row[2] for row in rows(tmp_path / "run")]
    assert rates[1:] == pytest.approx([1e-3, 1e-3, 0.75e-3, 0.25e-3])
    assert "lr was begun anew at step 6 already" in (tmp_path / "run.log").read_text()
    assert {path.name for path in (tmp_path / "run").glob("ema*")} == {
        "ema_checkpoints",
        "ema_0.7_checkpoints",
    }


def test_on_a_disk_too_small_the_run_goes_on_and_fails_in_the_end(train, whole, tmp_path):
    place = tmp_path / "run/checkpoints"
    place.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        try:
            mount(str(place), 4096)
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        pytest.skip("this system permits no mounts")
    one = sum(sizes(whole / "checkpoints/tiny_iter_8").values())
    options = ["SOLVER.SNAPSHOT_KEEP", 0]
    train("run", *options, disk=(place, int(1.2 * one)), code=1)  # one fits, of four
    assert rows(tmp_path / "run") == rows(whole)
    log = (tmp_path / "run.log").read_text()
    for step in (4, 6, 8):
        assert f"tiny_iter_{step} could not be written: [Errno 28]" in log
    assert log.count("older checkpoints stay") == 3 and log.count("saved ") == 1
    assert log.splitlines()[-1].startswith("error: [Errno 28]") and "make room" in log


def test_two_processes_that_refuse_a_run_say_so_once_and_leave_nothing(train, tmp_path):
    train("run", "NUM_GPUS", 2, "TRAIN.LOADER_CONFIG", "{prefetsh: 1}", world=2, code=2)
    log = (tmp_path / "run.log").read_text()
    assert log.count("error: TRAIN.LOADER_CONFIG has ['prefetsh']") == 1
    assert log.count("error") == 1 and "met by" not in log
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ddp", "fsdp"])
def test_two_processes_go_on_as_one_and_as_two(train, whole, tmp_path, backend):
    two = ["NUM_GPUS", 2, "TRAIN.BATCH_SIZE", 2, "PARALLEL.BACKEND", backend]
    train("run", *two, world=2, kill_in_step=5)
    assert newest(tmp_path / "run").step in (2, 4)
    train("run", kill_in_step=5)
    assert newest(tmp_path / "run").step >= 4
    train("run", *two, world=2)
    assert_same(tmp_path / "run", whole, rtol=1e-3, atol=1e-4)
    assert "UserWarning: FSDP" not in (tmp_path / "run.log").read_text()


@pytest.mark.slow
def test_a_process_that_cannot_write_is_heard_by_the_others(train, whole, tmp_path):
    two = ["NUM_GPUS", 2, "TRAIN.BATCH_SIZE", 2, "PARALLEL.BACKEND", "fsdp"]
    train("run", *two, world=2, largest=200_000, code=1)
    assert len(rows(tmp_path / "run")) == STEPS
    log = (tmp_path / "run.log").read_text()
    assert log.count("could not be written: [Errno 27] File too large") == STEPS // 2
    assert newest(tmp_path / "run") is None
