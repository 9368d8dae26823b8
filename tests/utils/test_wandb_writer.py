# SPDX-License-Identifier: Apache-2.0
"""The real package, offline: it never asks, and a resumed run is the same run."""

import sys

import pytest
from PIL import Image

from diffnext.utils import wandb_writer
from diffnext.utils.wandb_writer import WandbWriter, has_key


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No key, no server, nobody to answer."""
    for name in ("API_KEY", "IDENTITY_TOKEN_FILE", "MODE", "PROJECT", "RUN_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(sys, "stdin", None)


def written(folder, rows, step=0):
    """Write rows as a run does; return the folder of the offline run."""
    folder.mkdir(exist_ok=True)
    before = set(folder.glob("wandb/offline-run-*"))
    writer = WandbWriter(folder, name="t2i", config={"SOLVER": {"BASE_LR": 0.015625}})
    writer.write(rows)
    Image.new("RGB", (8, 8)).save(folder / "00000.png")
    writer.show(step, [(folder / "00000.png", "a red cat")])
    writer.close()
    writer.close()  # as several hooks do that share it
    pytest.importorskip("wandb").teardown()  # waits until all is on the disk
    (made,) = set(folder.glob("wandb/offline-run-*")) - before
    return made


def test_without_a_key_rows_and_samples_are_kept_offline_in_one_run(tmp_path):
    pytest.importorskip("wandb")
    first = written(tmp_path / "logs", [{"step": 1, "loss": 0.734375, "norm": None}])
    content = next(first.glob("*.wandb")).read_bytes()
    for part in (b"0.734375", b"loss", b"0.015625", b"a red cat", b"t2i"):
        assert part in content, part
    assert b"norm" not in content
    assert list(first.glob("files/media/images/samples/*.png"))
    second = written(tmp_path / "logs", [{"step": 2, "loss": 0.5}])
    run_id = (tmp_path / "logs/wandb_id").read_text()
    # two runs begun in one second have another "-1" behind
    assert first.name.split("-")[3] == second.name.split("-")[3] == run_id


def test_a_server_that_does_not_answer_is_done_without(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb_writer, "PATIENCE_S", 2)
    assert written(tmp_path / "logs", [{"step": 1, "loss": 0.25}])


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install diffnext\[wandb\]"):
        WandbWriter(tmp_path, name="t2i", config={})


def test_a_key_is_found_where_wandb_finds_it(tmp_path, monkeypatch):
    assert not has_key()
    (tmp_path / ".netrc").write_text("machine 127.0.0.1\n login user\n password secret\n")
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert has_key()
