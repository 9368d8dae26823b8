# SPDX-License-Identifier: Apache-2.0
"""What is looked at before a run begins."""

import numpy as np
import pytest

from diffnext.data.records import DamagedRecord
from diffnext.engine.check_data import LOOKED_AT, check_labels, latent_level, look, misfits
from diffnext.pipelines.train_base import Expected
from tests.data.toy_reader import ToyReader

SHAPES = [(4, 2, 2)] * 20


def test_damaged_records_are_left_to_the_loader_which_may_skip_them():
    assert [r["caption"] for r in look(ToyReader(SHAPES))][::7] == ["toy 0", "toy 19"]
    records = look(ToyReader(SHAPES, damaged=(0, 19)))
    assert len(records) == LOOKED_AT - 2 and records[0]["caption"] != "toy 0"
    with pytest.raises(DamagedRecord, match="toy record 19 is damaged"):
        look(ToyReader(SHAPES, damaged=range(20)))


def test_other_errors_are_raised():
    with pytest.raises(OSError, match="cannot read toy record 0"):
        look(ToyReader(SHAPES, bad=(0,)))


def test_moments_with_one_log_variance_for_all_channels_fit_and_have_the_level_of_whole_ones():
    values = np.random.default_rng(0).normal(size=(5, 2, 2)).astype("<f2")
    stored = {"moments": values.tobytes(), "shape": values.shape}
    whole = np.concatenate([values[:4], *[values[4:]] * 4])
    repeated = {"moments": whole.tobytes(), "shape": whole.shape}
    config = {"scaling_factor": [1.0, 2.0, 3.0, 4.0], "shift_factor": 0.5}
    assert latent_level([stored], config) == pytest.approx(latent_level([repeated], config))
    assert not misfits(ToyReader([(5, 2, 2)]), Expected(channels=4))
    assert misfits(ToyReader([(5, 2, 2)]), Expected(channels=2))


def test_labels_that_count_from_1_are_refused():
    reader, expected = ToyReader(SHAPES), Expected(classes=10)
    reader.fields["label"] = "INT64"
    check_labels(reader, [{"label": 0}, {"label": 9}], expected)
    check_labels(reader, [{"label": 10}], Expected())
    with pytest.raises(ValueError, match=r"toy has records with label 10; .* the classes 0 to 9"):
        check_labels(reader, [{"label": 1}, {"label": 10}], expected)
