# SPDX-License-Identifier: Apache-2.0
"""Where a sample of a run comes from: its dataset, its record, the file that this was made of."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, islice

from diffnext.data.datasets import JoinedReader, SelectedReader
from diffnext.data.journal import JOURNAL, open_lines
from diffnext.data.records import RecordReader


class Origins:
    """Names samples by their number through all datasets, as batches have it.

    Args:
        readers: the datasets, in the order of the run.
    """

    def __init__(self, readers: Sequence[RecordReader]) -> None:
        self.readers = list(readers)
        self._starts = [0, *accumulate(map(len, self.readers))]

    def describe(self, index: int) -> str:
        """Dataset and record."""
        reader, record = self._find(index)
        return reader.describe(record)

    def source(self, index: int) -> str:
        """The media file that the record was made of; "" if the dataset does not say."""
        reader, record = self._find(index)
        while isinstance(reader, JoinedReader | SelectedReader):
            if isinstance(reader, SelectedReader):
                record = int(reader.chosen[record])
            reader = reader.first if isinstance(reader, JoinedReader) else reader.source
        path = os.path.join(reader.path, JOURNAL)
        if not os.path.isfile(path):
            return ""
        with open_lines(path) as lines:
            line = next(islice(lines, record, None), "{}")
        return str(json.loads(line).get("path", ""))

    def _find(self, index: int) -> tuple[RecordReader, int]:
        number = bisect_right(self._starts, index) - 1
        return self.readers[number], index - self._starts[number]
