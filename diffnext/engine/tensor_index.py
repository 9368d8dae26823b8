# SPDX-License-Identifier: Apache-2.0
"""The index of torch.distributed.checkpoint, a pickle, read so that nothing in it can run.

torch unpickles the file without any limit. Here it may name the few types that an index is made of, and
nothing else; what a saved tensor is told by cannot point out of its folder, or be an object of another kind.
"""

from __future__ import annotations

import pickle
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar

import torch
from torch.distributed.checkpoint import FileSystemReader, filesystem, metadata
from torch.serialization import _get_layout

INDEX = ".metadata"

_ROWS = (  # whose fields the file fills
    metadata.ChunkStorageMetadata,
    metadata.Metadata,
    metadata.MetadataIndex,
    metadata.StorageMeta,
    metadata.TensorProperties,
    metadata.TensorStorageMetadata,
    filesystem._StorageInfo,
)
_PARTS: dict[tuple[str, str], Any] = {
    (cls.__module__, cls.__name__): cls
    for cls in (*_ROWS, metadata._MEM_FORMAT_ENCODING, torch.Size)
}
_PARTS["torch", "Size"] = torch.Size
_PARTS["torch.serialization", "_get_layout"] = _get_layout
for _module in ("pathlib", "pathlib._local"):  # Python 3.13 calls it otherwise
    _PARTS[_module, "PosixPath"] = PurePosixPath
    _PARTS[_module, "WindowsPath"] = PureWindowsPath


class IndexReader(FileSystemReader):
    """Reads tensors of a folder that torch.distributed.checkpoint wrote; its index is read once.

    Raises:
        ValueError: the index is damaged, or holds what an index of tensors does not.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.index = read_index(folder)

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        return self.index


def read_index(folder: Path) -> metadata.Metadata:
    """What tensors are in a folder, and where."""
    path = folder / INDEX
    try:
        with open(path, "rb") as file:
            index = _Unpickler(file).load()
        _check(index)
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged bytes raise whatever they happen to mean
        raise ValueError(f"{path} is no index of tensors: {error}") from error
    return index


class _Unpickler(pickle._Unpickler):
    """The one of Python: that of C takes half the time, and would fill whatever the file points at."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        target = self.stack[-2]
        if type(target) not in _ROWS:  # such as a class, whose attributes all its objects share
            raise pickle.UnpicklingError(f"it sets attributes of {target!r}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PARTS:
            return _PARTS[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which has no place in it")


def _check(index: Any) -> None:
    if type(index) is not metadata.Metadata:
        raise ValueError(f"it holds {type(index).__name__}")
    for name, entry in index.state_dict_metadata.items():
        if type(entry) is not metadata.TensorStorageMetadata:  # torch unpickles any other kind
            raise ValueError(f"{name!r} is {type(entry).__name__}, not a tensor")
    for info in index.storage_data.values():
        if type(info) is not filesystem._StorageInfo or Path(info.relative_path).name != str(
            info.relative_path
        ):
            raise ValueError(f"a tensor lies at {info}, outside of the folder")
