# SPDX-License-Identifier: Apache-2.0
"""Columns of a batch: all examples have a field, or none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffnext.data.schema import collate

INDEX, EPOCH = np.array([4, 9]), np.array([0, 1])


def batch(records, prompts=(None, None)):
    moments = torch.zeros(2, 8, 1, 2, 3, dtype=torch.float16)
    return collate(records, prompts, moments=moments, index=INDEX, epoch=EPOCH)


def test_labels_motion_and_texts():
    made = batch([{"label": 7, "flow": 2.5}, {"label": 0, "flow": 0.0}], ["", "a"])
    assert made.labels.tolist() == [7, 0] and made.labels.dtype == torch.int64
    assert made.flow.tolist() == [2.5, 0] and made.flow.dtype == torch.float32
    assert made.prompts == ["", "a"]
    assert made.keys() == [(0, 4), (1, 9)] and len(made) == 2


def test_numbers_are_where_the_moments_are(monkeypatch):
    """Page-locked memory needs a GPU: what is asked for is all that shows here."""
    asked, make = [], torch.tensor

    def tensor(values, *, dtype, pin_memory):
        asked.append(pin_memory)
        return make(values, dtype=dtype)

    monkeypatch.setattr(torch, "tensor", tensor)
    batch([{"label": 7, "flow": 2.5}] * 2)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)
    batch([{"label": 7, "flow": 2.5}] * 2)
    assert asked == [False, False, True, True]


def test_fields_that_nobody_has():
    made = batch([{}, {}])
    assert made.labels is None and made.flow is None and made.prompts is None


def test_embeddings_become_tensors():
    arrays = [np.full((2, 3), i, np.float16) for i in range(2)]
    made = batch([{}, {}], arrays)
    assert all(
        torch.equal(t, torch.from_numpy(a)) for t, a in zip(made.prompts, arrays, strict=True)
    )


@pytest.mark.parametrize(
    ("records", "prompts", "message"),
    [
        ([{"label": 7}, {}], (None, None), r"records \[9\] have no 'label'"),
        ([{"label": 7}, {"label": 1, "flow": 0.0}], ("", ""), r"records \[4\] have no 'flow'"),
        ([{}, {}], (None, "a"), r"records \[4\] have no 'prompt'"),
    ],
)
def test_a_field_that_some_lack_is_refused(records, prompts, message):
    with pytest.raises(ValueError, match=f"{message}, others of their batch do"):
        batch(records, prompts)
