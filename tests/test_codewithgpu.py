# SPDX-License-Identifier: Apache-2.0
"""The codewithgpu package works under the installed protobuf, and reads what is written here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import diffnext
from diffnext.codewithgpu_compat import MESSAGES, MessageFinder, install

ROOT = Path(diffnext.__file__).parents[1]
FIELDS = r"""
import sys, numpy as np
FIELDS = {"moments": "bytes", "shape": ["int64"], "caption": "string", "flow": "float64", "n": "int32",
          "prompt": {"data": "bytes", "shape": ["int64"]}, "deep": [{"a": [["float"]]}]}
def row(i):
    return {"moments": bytes([i]) * (i * 1000), "shape": [i, -i, 0], "caption": "\xe9" * i, "flow": i / 4,
            "n": -i * 2**40, "prompt": {"data": b"ab" * i, "shape": [i]}, "deep": [{"a": [[0.5] * i]}] * i}
"""
THEIRS_THEN_OURS = """
writer = codewithgpu.RecordWriter(sys.argv[1], dict(FIELDS), max_examples=3)
for i in range(10):
    writer.write(row(i))
writer.close()
from diffnext.data.records import open_reader
reader = open_reader(sys.argv[1])
assert [reader[i] for i in range(10)] == [row(i) for i in range(10)]
"""
OURS_THEN_THEIRS = """
from diffnext.data.records import open_writer, write_identity
write_identity(sys.argv[1], {"vae": "x"})
for first in (0, 6):
    with open_writer(sys.argv[1], FIELDS, max_examples=3, append=True) as writer:
        for i in range(first, first + (6 if first == 0 else 4)):
            writer.write(row(i))
dataset = codewithgpu.RecordDataset(sys.argv[1])
assert dataset.size == 10
assert [dataset.read() for _ in range(10)] == [row(i) for i in range(10)]
"""
SHAPE_AS_TUPLE = """
x = np.zeros((4, 2, 2), "float16")
writer = codewithgpu.RecordWriter(sys.argv[1], {"moments": "bytes", "shape": ["int64"]})
writer.write({"shape": x.shape, "moments": x.tobytes()}), writer.close()
assert codewithgpu.RecordDataset(sys.argv[1]).read()["shape"] == [4, 2, 2]
"""
NOTHING_IMPORTED = """
import sys, diffnext
heavy = {"torch", "numpy", "google.protobuf", "codewithgpu"} & set(sys.modules)
assert not heavy, heavy
"""


def failure(code: str, *arguments: str) -> str:
    """What a program in a process of its own failed with; "" where all that it asserts holds."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stderr or "exit code without a word" if done.returncode else ""


@pytest.mark.parametrize(
    "imports", ["import codewithgpu, diffnext", "import diffnext, codewithgpu"]
)
@pytest.mark.parametrize("code", [THEIRS_THEN_OURS, OURS_THEN_THEIRS, SHAPE_AS_TUPLE])
def test_both_ways_in_either_order_of_import(imports, code, tmp_path):
    assert failure(f"{imports}{FIELDS}{code}", str(tmp_path)) == ""


def test_importing_diffnext_imports_nothing_heavy():
    assert failure(NOTHING_IMPORTED) == ""


def test_installing_twice_changes_nothing():
    before = list(sys.meta_path)
    install()
    assert sys.meta_path == before
    assert sum(isinstance(finder, MessageFinder) for finder in before) == 1
    assert all(MessageFinder().find_spec(name, None) is not None for name in MESSAGES)


def test_tf_records_have_their_messages():
    """The other format of codewithgpu loads its classes in the same breath."""
    from codewithgpu.data import tf_record_pb2

    example = tf_record_pb2.Example()
    example.features.feature["a"].int64_list.value.extend([1, -2])
    example.features.feature["b"].bytes_list.value.append(b"x")
    again = tf_record_pb2.Example.FromString(example.SerializeToString())
    assert list(again.features.feature["a"].int64_list.value) == [1, -2]
    assert again.features.feature["b"].WhichOneof("kind") == "bytes_list"
