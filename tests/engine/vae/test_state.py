# SPDX-License-Identifier: Apache-2.0
"""The state of a training is whole, and its log is that of the finished steps."""

from __future__ import annotations

import os

import pytest
import torch

from diffnext.engine.vae import state


def test_a_failed_save_leaves_the_old_state_and_nothing_else(tmp_path, monkeypatch):
    state.save(tmp_path, {"settings": {}, "step": 1})

    def full(value, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="disk full"):
        state.save(tmp_path, {"settings": {}, "step": 2})
    assert state.load(tmp_path, {})["step"] == 1
    assert os.listdir(tmp_path) == [state.STATE]


def test_the_log_is_cut_to_the_saved_step(tmp_path):
    for step in (1, 2, 3):
        state.append(tmp_path, {"step": step, "loss": float("nan") if step == 1 else 0.5})
    path = tmp_path / state.METRICS
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    state.cut(tmp_path, 2)
    assert path.read_text() == '{"step": 1, "loss": NaN}\n{"step": 2, "loss": 0.5}\n'


def test_a_damaged_log_is_named(tmp_path):
    (tmp_path / state.METRICS).write_text('{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:1 is damaged"):
        state.cut(tmp_path, 2)
