# SPDX-License-Identifier: Apache-2.0
"""A sample's number leads back to its record and to the file that this was made of."""

import json

import numpy as np

from diffnext.data.datasets import SelectedReader, open_datasets
from diffnext.data.journal import JOURNAL
from diffnext.data.origins import Origins
from tests.runs.tiny_nova import make_cache


def test_a_number_through_all_datasets_finds_record_and_file(tmp_path):
    first, second = (make_cache(tmp_path / name, "t2i", count=3) for name in "ab")
    lines = [json.dumps({"path": f"/media/{i}.png"}) + "\n" for i in range(3)]
    (second / JOURNAL).write_text("".join(lines))
    readers, _ = open_datasets([str(first), str(second)])
    origins = Origins(readers)
    assert origins.describe(2) == readers[0].describe(2)
    assert origins.describe(4) == readers[1].describe(1)
    assert origins.source(4) == "/media/1.png"
    assert origins.source(1) == ""


def test_joined_datasets_tell_the_file_of_the_first(tmp_path):
    first, second = (make_cache(tmp_path / name, "t2i", count=2) for name in "ab")
    (first / JOURNAL).write_text('{"path": "/x"}\n{"path": "/y"}\n')
    readers, _ = open_datasets(str(first), str(second))
    assert Origins(readers).source(1) == "/y"
    chosen = SelectedReader(readers[0], np.array([1]))
    assert Origins([chosen]).source(0) == "/y"
