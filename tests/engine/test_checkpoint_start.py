# SPDX-License-Identifier: Apache-2.0
"""What a run may change on its way, what it may begin anew, and which checkpoints stay for it."""

import json
import shutil

import pytest
import torch
import yaml

from diffnext.engine.checkpoint import Start, check_data, check_network, find, find_start, newest
from tests.engine.runs import Interrupted, toy_run
from tests.engine.test_checkpoint import finish, interrupt

OPTIONS = {
    "NUM_GPUS": 1,
    "PIPELINE": {"TYPE": "t2i"},
    "SOLVER": {"BASE_LR": 1e-4, "DISPLAY": 20, "OPTIMIZER": "AdamW", "SNAPSHOT_EVERY": 4},
    "TRAIN": {"BATCH_SIZE": 4, "DATASET": "/data/a", "RESUME": "auto", "TEXT_DROPOUT": 0.1},
}

pytestmark = pytest.mark.usefixtures("no_waiting_for_disks")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run of four steps; its checkpoint says OPTIONS and two datasets."""
    folder = tmp_path_factory.mktemp("run")
    finish(folder, max_steps=4)
    path = folder / "checkpoints/toy_iter_4/run.json"
    run = json.loads(path.read_text())
    made = [{"vae": {"weights_sha256": "aaa", "class": "A"}}, None]
    held = [{"sizes": "1", "sums": "2"}, {"sizes": "3", "sums": None, "joined": {"sizes": "4"}}]
    run["about"] = {"config": yaml.safe_dump(OPTIONS), "data": made, "records": held}
    run["loader"] |= {"step": 4, "seed": 3, "global_batch": 4, "records": [16]}
    run["loader"]["buckets"] = 77
    path.write_text(json.dumps(run))
    complete = folder / "checkpoints/toy_iter_4/complete.json"
    sizes = json.loads(complete.read_text())
    sizes["files"]["run.json"] = path.stat().st_size
    complete.write_text(json.dumps(sizes))
    return folder


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def changed(**values):
    tree = json.loads(json.dumps(OPTIONS))
    for name, value in values.items():
        section, _, key = name.partition("__")
        (tree[section] if key else tree)[key or section] = value
    return yaml.safe_dump(tree)


@pytest.mark.parametrize(
    ("option", "value", "level"),
    [
        ("SOLVER__DISPLAY", 5, "INFO"),
        ("NUM_GPUS", 2, "INFO"),
        ("TRAIN__BATCH_SIZE", 2, "INFO"),
        ("TRAIN__DATASET", "/data/b", "INFO"),
        ("TRAIN__RESUME", "/x", "INFO"),
        ("TRAIN__CHECKPOINT_KEEP", ["matmul"], "INFO"),
        ("TRAIN__LOADER_CONFIG.prefetch", 2, "INFO"),
        ("SOLVER__OPTIMIZER", "adamw", "INFO"),
        ("SOLVER__NEW", 1, "WARNING"),
        ("SOLVER__BASE_LR", 1e-3, "WARNING"),
        ("TRAIN__TEXT_DROPOUT", 0.2, "WARNING"),
    ],
)
def test_a_changed_option_is_told_or_warned_of(run, caplog, option, value, level):
    with caplog.at_level("INFO", logger="diffnext"):
        find_start("auto", run, config=changed(**{option: value}))
    told = [r for r in caplog.records if "changed since the checkpoint" in r.message]
    assert [record.levelname for record in told] == [level]
    name = option.replace("__", ".")
    section, _, key = option.partition("__")
    old = OPTIONS[section].get(key) if key else OPTIONS[section]
    assert f"{name}: {old!r} in the checkpoint, {value!r} now" in told[0].message


@pytest.mark.parametrize(("policy", "level"), [("constant", "INFO"), ("cosine_decay", "WARNING")])
def test_a_later_end_is_warned_of_where_the_rate_depends_on_it(run, caplog, policy, level):
    with caplog.at_level("INFO", logger="diffnext"):
        find_start("auto", run, config=changed(SOLVER__MAX_STEPS=9, SOLVER__LR_POLICY=policy))
    assert [r.levelname for r in caplog.records if "SOLVER.MAX_STEPS" in r.message] == [level]


def test_the_same_options_need_no_word(run, caplog):
    with caplog.at_level("INFO", logger="diffnext"):
        assert find_start("auto", run, config=changed()).checkpoint.step == 4
    assert "changed" not in caplog.text


def test_another_task_or_optimizer_is_refused(run):
    with pytest.raises(
        ValueError, match=r"PIPELINE.TYPE: 't2i' in the checkpoint, 't2v' now; .*exp-dir"
    ):
        find_start("auto", run, config=changed(PIPELINE__TYPE="t2v"))
    other = changed(SOLVER__OPTIMIZER="SGD")
    with pytest.raises(ValueError, match=r"'AdamW' in the .* 'SGD' now; .*--reset-optimizer"):
        find_start("auto", run, config=other)
    assert find_start("auto", run, config=other, resets=["optimizer"]).resets == ["optimizer"]


def test_another_network_is_refused(run):
    start = find_start("auto", run)
    check_network(start, "transformer", {"depth": 2, "width": 32, "_class_name": "Other"})
    with pytest.raises(ValueError, match=r"depth: 2 in the checkpoint, 3 now\nrestore these"):
        check_network(start, "transformer", {"depth": 3, "width": 32})


def test_other_data_are_refused(run):
    start = find_start("auto", run)
    order = {"step": 0, "seed": 3, "global_batch": 4, "records": [16], "buckets": 77}
    made = [{"vae": {"weights_sha256": "aaa", "class": "A"}}, None]
    held = [{"sizes": "1", "sums": "2"}, {"sizes": "3", "sums": None, "joined": {"sizes": "4"}}]
    check_data(start, order, made, held)
    with pytest.raises(ValueError, match=r"order:\n  shapes of the records, .*\nrestore"):
        check_data(start, order | {"buckets": 78}, made, held)
    with pytest.raises(
        ValueError, match=r"order:\n  records: \[16\] in the .* \[17\] now\nrestore"
    ):
        check_data(start, order | {"buckets": 78, "records": [17]}, made, held)
    with pytest.raises(ValueError, match=r"(?s)global_batch: 4 in .*, 8 now.*--reset-data"):
        check_data(start, order | {"global_batch": 8}, made, held)
    other = [{"vae": {"weights_sha256": "bbb", "class": "A"}}, None]
    wanted = r"dataset 0\.vae\.weights_sha256: 'aaa' in the checkpoint, 'bbb' now"
    with pytest.raises(ValueError, match=wanted):
        check_data(start, order, other, held)
    anew = Start(start.checkpoint, ["data"])
    check_data(anew, order | {"seed": 9}, other, [{"sizes": "9"}] * 2)


@pytest.mark.parametrize(
    ("number", "change", "same"),
    [
        (0, {"sums": None}, True),
        (1, {"sums": "7"}, True),
        (0, {"sums": "7"}, False),
        (1, {"sizes": "7"}, False),
        (1, {"joined": {"sizes": "7"}}, False),
        (0, {"joined": {"sizes": "4"}}, False),
    ],
)
def test_other_records_are_refused(run, number, change, same):
    start = find_start("auto", run)
    order, made = start.checkpoint.run()["loader"], start.checkpoint.run()["about"]["data"]
    held = [{"sizes": "1", "sums": "2"}, {"sizes": "3", "sums": None, "joined": {"sizes": "4"}}]
    held[number] |= change
    if same:
        check_data(start, order, made, held)
        return
    wanted = rf"dataset {number}: .*, but not the same records; .*\n.* a copy of it .*--reset-data"
    with pytest.raises(ValueError, match=wanted):
        check_data(start, order, made, held)


def test_a_checkpoint_that_does_not_say_its_records_is_taken(run, caplog, monkeypatch):
    start = find_start("auto", run)
    saved = start.checkpoint.run()
    del saved["about"]["records"]
    monkeypatch.setattr(type(start.checkpoint), "run", lambda self: saved)
    with caplog.at_level("INFO", logger="diffnext"):
        check_data(start, saved["loader"], saved["about"]["data"], [{"sizes": "9"}] * 2)
    assert "does not say which records it was trained on" in caplog.text


def test_what_cannot_be_reset_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"there is no checkpoint to resume"):
        find_start("auto", tmp_path, resets=["lr"])
    with pytest.raises(ValueError, match=r"TRAIN.RESET has \['lrr'\]; there are \['lr', "):
        find_start("auto", tmp_path, resets=["lrr"])


def test_a_reset_is_done_once_in_a_folder(run, tmp_path, caplog):
    start = find_start("auto", run, resets=["lr"])
    assert (start.resets, start.done, start.begin) == (["lr"], {"lr": 4}, 4)
    trainer = toy_run(run, max_steps=6, resets=["lr"], snapshot_every=5, stop_at=5)
    with pytest.raises(Interrupted):
        trainer.train()
    with caplog.at_level("INFO", logger="diffnext"):
        again = find_start("auto", run, resets=["lr"])
    assert (again.checkpoint.step, again.resets, again.begin) == (5, [], 4)
    assert "lr was begun anew at step 4 already" in caplog.text
    elsewhere = find_start(str(run), tmp_path / "other", resets=["lr"])
    assert (elsewhere.resets, elsewhere.done, elsewhere.begin) == (["lr"], {"lr": 5}, 5)
    assert find_start(str(run), tmp_path / "other").begin == 4


def test_a_new_optimizer_has_no_state(tmp_path):
    interrupt(tmp_path, at=4)
    trainer = toy_run(tmp_path, optimizer="SGD", resets=["optimizer"])
    assert trainer.step == 4 and trainer.backend.optimizer_state("student") == {}
    trainer.train()


def test_averages_that_do_not_fit_are_refused_or_begin_at_the_weights(tmp_path):
    interrupt(tmp_path, at=4, decays=(0.9,))
    with pytest.raises(
        ValueError, match=r"\['ema'\], and .* ask for \['ema', 'ema_0.5'\].*--reset-ema"
    ):
        toy_run(tmp_path, decays=(0.9, 0.5))
    trainer = toy_run(tmp_path, decays=(0.9, 0.5), resets=["ema"])
    weights = trainer.backend.weights("student", learning=True)
    for average in trainer.hooks[1].ema.parts().values():
        assert all(torch.equal(value, weights[name]) for name, value in average.items())
    trainer.train()
    folders = sorted(path.name for path in tmp_path.glob("ema*"))
    assert folders == ["ema_0.5_checkpoints", "ema_checkpoints"]
    with pytest.raises(ValueError, match=r"\['ema', 'ema_0.5'\], and .* ask for \['ema'\]"):
        toy_run(tmp_path, max_steps=9, decays=(0.9,))


def test_what_was_loaded_is_counted(tmp_path, caplog):
    interrupt(tmp_path, at=4)
    with caplog.at_level("INFO", logger="diffnext"):
        toy_run(tmp_path)
    # ten parameters learn; one more and a buffer are saved; Adam has three tensors for each
    assert "loaded 52 tensors: 12 of weights, 30 of optimizer, 10 of average" in caplog.text


def test_every_nth_checkpoint_stays(tmp_path):
    finish(tmp_path, max_steps=10, snapshot_every=1, keep=2, keep_every=4)
    for folder in ("checkpoints", "ema_checkpoints"):
        names = sorted(path.name for path in (tmp_path / folder).iterdir())
        assert names == ["toy_iter_10", "toy_iter_4", "toy_iter_8", "toy_iter_9"]


def test_what_a_run_came_from_stays_while_it_runs(tmp_path):
    finish(tmp_path, max_steps=2, snapshot_every=2)
    finish(tmp_path, max_steps=6, snapshot_every=2, keep=1)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["toy_iter_2", "toy_iter_6"]
    finish(tmp_path, max_steps=8, snapshot_every=2, keep=1)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["toy_iter_6", "toy_iter_8"]


def test_a_damaged_marker_is_a_flaw(tmp_path, caplog):
    finish(tmp_path)
    for content in (b"{", b"[]", b"{}", b'{"files": 3}', b"\xff\xfe"):
        (tmp_path / "checkpoints/toy_iter_8/complete.json").write_bytes(content)
        assert newest(tmp_path).step == 4
    assert "toy_iter_8: it is damaged: complete.json is no JSON" in caplog.text


def test_a_source_that_is_gone_is_no_error_where_the_run_has_gone_on(tmp_path, caplog):
    finish(tmp_path / "second")
    with caplog.at_level("INFO", logger="diffnext"):
        assert find(str(tmp_path / "gone"), tmp_path / "second").step == 8
    assert "gone is gone" in caplog.text
    with pytest.raises(ValueError, match="gone"):
        find(str(tmp_path / "gone"), tmp_path / "third")


def test_an_end_before_the_last_step_is_saved(tmp_path):
    trainer = toy_run(tmp_path, max_steps=100, snapshot_every=50)
    step = trainer.train_step

    def five():
        if trainer.step == 4:
            trainer.request_stop("enough")
        return step()

    trainer.train_step = five
    trainer.train()
    assert newest(tmp_path).step == 5
