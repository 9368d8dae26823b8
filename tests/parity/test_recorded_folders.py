# SPDX-License-Identifier: Apache-2.0
"""Record folders of the original, read and written again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from diffnext.data.loader import Loader
from diffnext.data.records import open_reader, open_writer

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("DIFFNEXT_PARITY", ROOT / "../shared/parity")) / "records"
if not FOLDER.is_dir():
    pytest.skip(f"no recorded folders at {FOLDER} (DIFFNEXT_PARITY)", allow_module_level=True)
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def hashed(value):
    """The form of expected.json: bytes as their sha256."""
    if isinstance(value, dict):
        return {name: hashed(inner) for name, inner in value.items()}
    return hashlib.sha256(value).hexdigest() if isinstance(value, memoryview) else value


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_field_is_read(name):
    reader = open_reader(FOLDER / name)
    assert [hashed(reader[i]) for i in range(len(reader))] == EXPECTED[name]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_moments_are_read_into_memory(name):
    reader = open_reader(FOLDER / name)
    for index, wanted in enumerate(EXPECTED[name]):
        out = memoryview(bytearray(len(reader[index]["moments"])))
        (rest,) = reader.read_into([index], "moments", [out])
        assert {**hashed(rest), "moments": hashlib.sha256(out).hexdigest()} == wanted


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_same_files_are_written(name, tmp_path):
    """All bytes, METADATA and text indexes included."""
    reader = open_reader(FOLDER / name)
    per_shard = int(reader.index.first[1])
    with open_writer(tmp_path, reader.fields, max_examples=per_shard) as writer:
        for index in range(len(reader)):
            writer.write(reader[index])
    for file in (FOLDER / name).iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_batches_are_made(name):
    loader = Loader(open_reader(FOLDER / name), batch_size=4, num_threads=2)
    for _ in range(5):
        batch = next(loader)
        rows = [EXPECTED[name][i] for i in batch.index]
        for moments, row in zip(batch.moments, rows, strict=True):
            assert hashlib.sha256(moments.numpy().tobytes()).hexdigest() == row["moments"]
        if "flow" in rows[0]:
            assert batch.flow.tolist() == [row["flow"] for row in rows]
        if "label" in rows[0]:
            assert batch.labels.tolist() == [row["label"] for row in rows]
    loader.close()
