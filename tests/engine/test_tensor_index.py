# SPDX-License-Identifier: Apache-2.0
"""Tensors on disk are read back, and no byte of a checkpoint is run."""

import os
import pickle
import shutil

import pytest
import torch
from torch.distributed.checkpoint import metadata

from diffnext.engine.tensor_index import INDEX
from diffnext.engine.tensors import SavedTensors, save_tensors

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "a.step": torch.tensor(7),
    "b": torch.randn(5).bfloat16(),
    "empty": torch.zeros(0, 4),
    "flag": torch.tensor([True, False]),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensors")
    save_tensors(TENSORS, folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "state")


def test_what_was_written_is_read(folder):
    found = SavedTensors(folder).full()
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[name], TENSORS[name]) for name in found)
    assert SavedTensors(folder).below("a.").shapes() == {"weight": (2, 3), "step": ()}


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def tampered(folder, change):
    """Unpickle the index as torch does, change it, write it back."""
    index = pickle.loads((folder / INDEX).read_bytes())
    change(index)
    (folder / INDEX).write_bytes(pickle.dumps(index))


def test_code_in_the_index_is_not_run(folder, tmp_path):
    trace = tmp_path / "ran"
    (folder / INDEX).write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(
        ValueError, match=r"\.metadata is no index of tensors: .*posix\.mkdir|nt\.mkdir"
    ):
        SavedTensors(folder)
    tampered_index = {"planner_data": {"x": Evil(trace)}}
    (folder / INDEX).write_bytes(pickle.dumps(metadata.Metadata({}, **tampered_index)))
    with pytest.raises(ValueError, match="no index of tensors"):
        SavedTensors(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    "target",
    [metadata.Metadata, metadata.StorageMeta, metadata._MEM_FORMAT_ENCODING.TORCH_PRESERVE_FORMAT],
)
@pytest.mark.parametrize("slots", [False, True])
def test_no_attribute_of_a_class_or_a_constant_is_set(folder, target, slots):
    state = {"planted": 1}
    build = b"".join([pickle.dumps(target)[:-1], pickle.dumps((None, state) if slots else state)])
    (folder / INDEX).write_bytes(build[:-1] + pickle.BUILD + pickle.STOP)
    with pytest.raises(ValueError, match="no index of tensors: it sets attributes of <"):
        SavedTensors(folder)
    assert not hasattr(target, "planted")


def test_what_torch_would_unpickle_later_is_refused(folder):
    def as_bytes(index):
        index.state_dict_metadata["a.step"] = metadata.BytesStorageMetadata()

    tampered(folder, as_bytes)
    with pytest.raises(ValueError, match="BytesStorageMetadata, which has no place in it"):
        SavedTensors(folder)


def test_a_tensor_does_not_lie_outside_of_the_folder(folder):
    def outside(index):
        next(iter(index.storage_data.values())).relative_path = "../state/__0_0.distcp"

    tampered(folder, outside)
    with pytest.raises(ValueError, match="outside of the folder"):
        SavedTensors(folder)


def test_code_in_a_tensor_is_not_run(folder, tmp_path):
    trace = tmp_path / "ran"
    torch.save(Evil(trace), folder / "__0_0.distcp")

    def all_of_it(index):
        size = (folder / "__0_0.distcp").stat().st_size
        for info in index.storage_data.values():
            info.offset, info.length = 0, size

    tampered(folder, all_of_it)
    with pytest.raises(ValueError, match="cannot be read"):
        SavedTensors(folder).full()
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps([1]), pickle.dumps({})])
def test_a_damaged_index_is_named(folder, content):
    (folder / INDEX).write_bytes(content)
    with pytest.raises(ValueError, match=r"state/\.metadata is no index of tensors"):
        SavedTensors(folder)


def test_damaged_and_missing_tensors_are_errors_that_can_be_caught(folder):
    saved = SavedTensors(folder)
    with pytest.raises(ValueError, match="nowhere"):
        saved.read({"nowhere": torch.zeros(1)})
    with pytest.raises(ValueError, match="a\\.weight"):
        saved.read({"a.weight": torch.zeros(9)})
    path = folder / "__0_0.distcp"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ValueError, match="cannot be read"):
        saved.full()
