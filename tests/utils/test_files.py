# SPDX-License-Identifier: Apache-2.0
"""Files are whole or absent."""

import json
import os

import pytest

from diffnext.utils import files


def test_text_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    files.write_json(path, {"step": 1})

    def fail(*names):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_json(path, {"step": 2})
    assert json.loads(path.read_text()) == {"step": 1}


def test_a_folder_gets_its_name_when_it_is_finished(tmp_path):
    aside = tmp_path / ".new"
    (aside / "sub").mkdir(parents=True)
    (aside / "sub/a").write_text("abc")
    files.promote(aside, tmp_path / "deep/new")
    assert not aside.exists()
    assert files.sizes(tmp_path / "deep/new") == {"sub/a": 3}


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(FileExistsError, match="b exists and is not overwritten"):
        files.promote(tmp_path / "a", tmp_path / "b")
