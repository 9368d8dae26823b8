# SPDX-License-Identifier: Apache-2.0
"""Rows of a run: exact, whole lines, and continued where a run is resumed."""

import math
import sys

import pytest
import torch

from diffnext.utils.metrics import (
    Metrics,
    StepTimer,
    finite,
    mean,
    memory_bytes,
    read_rows,
)
from diffnext.utils.writers import JsonlWriter, TensorBoardWriter


def test_sums_keep_host_numbers_exact_and_tensors_apart_from_their_graph():
    metrics = Metrics()
    weight = torch.ones((), requires_grad=True)
    for value in (1.0, 3.0):
        metrics.add({"loss": weight * value, "lr": 1e-4}, weight=0.5)
    assert metrics.values["loss"].item() == 2.0
    assert not metrics.values["loss"].requires_grad
    assert metrics.values["lr"] == 1e-4


def test_a_resumed_file_drops_later_rows_and_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.write([{"step": n, "loss": 0.1 * n} for n in (1, 2, 3, 4)])
    writer.close()
    with open(path, "a") as file:
        file.write('{"step": 5, "lo')
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3, 4]
    writer = JsonlWriter(path, step=2)
    writer.write([{"step": 3, "loss": None}])
    writer.close()
    rows = [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 0.2}, {"step": 3, "loss": None}]
    assert read_rows(path) == rows


@pytest.mark.parametrize("end", [b'{"step": 3, "lo\n', b"\0\0\0\n\0\0", b"\xff\n[1]\n{}\n"])
def test_a_damaged_end_is_dropped(tmp_path, end):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + end)
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    JsonlWriter(path, step=2).close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_damage_before_the_end_names_file_and_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    for read in (read_rows, JsonlWriter):
        with pytest.raises(ValueError, match=r"metrics\.jsonl:2 is damaged, wanted a JSON object"):
            read(path)
    assert path.read_text().endswith('{"step": 3}\n')


def test_tensorboard_reads_what_was_written(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = TensorBoardWriter(tmp_path)
    writer.write([{"step": n, "loss": float(n), "norm": None} for n in (1, 2, 3)])
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_tensorboard_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        TensorBoardWriter(tmp_path)


def test_what_json_has_no_word_for_is_left_out():
    assert [finite(value) for value in (1.5, math.nan, math.inf)] == [1.5, None, None]
    assert mean([{"a": 1.0}, {"a": None}, {"a": 3.0}], "a") == 2.0
    assert math.isnan(mean([], "a"))


def test_durations_and_memory_are_plausible():
    timer = StepTimer(torch.device("cpu"))
    for _ in range(2):
        timer.start()
        torch.ones(1000).sum()
        timer.stop()
    times = timer.take()
    assert len(times) == 2 and all(0 < seconds < 5 for seconds in times)
    assert timer.take() == []
    assert 2**20 < memory_bytes(torch.device("cpu")) < 2**40
