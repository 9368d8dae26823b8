# SPDX-License-Identifier: Apache-2.0
"""Named tensors on disk (torch.distributed.checkpoint), and networks in the layout of diffusers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

from diffnext.distributed import env as processes
from diffnext.engine.tensor_index import IndexReader
from diffnext.utils import files

SHARD_SIZE = "10GB"  # of a network's files, as diffusers has it
_WEIGHTS = "diffusion_pytorch_model{suffix}.safetensors"


def save_tensors(
    tensors: Mapping[str, Tensor],
    folder: Path,
    *,
    copies: Mapping[str, Tensor] | None = None,
    group: dist.ProcessGroup | None = None,
    writing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Write named tensors, each process its own ones or its own shards. Collective.

    Args:
        tensors: say names, shapes and shards; plain tensors are on the CPU.
        copies: of sharded tensors this process's parts, to be written in place of the live ones.
        group: that the processes talk over; None for that of training.
        writing: entered while this process writes, left while it waits for the others.

    Raises:
        OSError: one of the processes could not write.
        ValueError: the tensors cannot be written.
    """
    writer = _Writer(folder, writing)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.save(
                dict(tensors),
                storage_writer=writer,
                planner=_Planner(copies or {}),
                process_group=group,
                no_dist=processes.world_size() == 1,
            )
    except CheckpointException as error:
        raise _cause(error, f"{folder} cannot be written") from error


class _Planner(DefaultSavePlanner):
    """Plans by the live tensors, and writes the copies that were made of them."""

    def __init__(self, copies: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.copies = copies

    def lookup_object(self, index: Any) -> Any:
        copy = self.copies.get(index.fqn)
        return super().lookup_object(index) if copy is None else copy


class _Writer(dcp.FileSystemWriter):
    """Says why the system refused to write, which torch hides in a context that does not travel.

    Args:
        writing: as in `save_tensors`.
    """

    def __init__(self, folder: Path, writing: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(folder, sync_files=True)
        self.writing = writing

    def write_data(self, *args: Any, **kwargs: Any) -> Any:
        try:
            with self.writing():
                return super().write_data(*args, **kwargs)
        except RuntimeError as error:
            reason: BaseException | None = error
            while reason is not None and not isinstance(reason, OSError):
                reason = reason.__cause__ or reason.__context__
            raise reason or error from None

    def finish(self, *args: Any, **kwargs: Any) -> None:
        with self.writing():
            super().finish(*args, **kwargs)


def _cause(error: CheckpointException, what: str) -> Exception:
    """What happened, of all that the processes report; torch's own class is no Exception."""
    causes = [cause for cause, _ in error.failures.values()]
    refused = [cause for cause in causes if isinstance(cause, OSError)]
    return refused[0] if refused else ValueError(f"{what}: {causes[0]!r}")


class SavedTensors:
    """Named tensors of a folder, or those below one prefix, whatever number of processes wrote them.

    Args:
        folder: written by `save_tensors`.
        prefix: names are told without it.

    Raises:
        ValueError: the folder's index is damaged, or holds what is no tensor.
    """

    def __init__(
        self, folder: str | Path, *, prefix: str = "", reader: IndexReader | None = None
    ) -> None:
        self.folder = Path(folder)
        self.prefix = prefix
        self._reader = reader or IndexReader(self.folder)
        self._entries = self._reader.index.state_dict_metadata

    def below(self, prefix: str) -> SavedTensors:
        """The tensors whose names begin with `prefix`."""
        return SavedTensors(self.folder, prefix=self.prefix + prefix, reader=self._reader)

    def shapes(self) -> dict[str, torch.Size]:
        """Name and full shape of everything that is there."""
        cut = len(self.prefix)
        return {
            name[cut:]: entry.size
            for name, entry in self._entries.items()
            if name.startswith(self.prefix)
        }

    def read(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors in place; a sharded one gets its own part.

        Raises:
            ValueError: one is not there, has another shape, or its bytes are damaged.
        """
        if not tensors:
            return
        targets = {self.prefix + name: tensor for name, tensor in tensors.items()}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.distributed is disabled")
                dcp.load(targets, storage_reader=self._reader, no_dist=True)
        except CheckpointException as error:
            raise _cause(error, f"{self.folder} cannot be read") from error

    def full(self) -> dict[str, Tensor]:
        """Everything, whole, on the CPU."""
        return self.some(self.shapes())

    def some(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of these names, whole, on the CPU."""
        tensors = dict(self.blank("cpu", names))
        self.read(tensors)
        return tensors

    def blank(
        self, device: str, names: Iterable[str] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Tensors of the names, shapes and types of what is there, not filled."""
        for name in self.shapes() if names is None else names:
            entry = self._entries[self.prefix + name]
            yield name, torch.empty(entry.size, dtype=entry.properties.dtype, device=device)


def save_network(net: nn.Module, parts: Sequence[SavedTensors], folder: Path) -> None:
    """Write a network so that its class's `from_pretrained` reads it; a file at a time is in memory.

    Args:
        net: says the configuration; its own weights are not looked at.
        parts: hold the weights; those of a later one take the place of an earlier one's.
    """
    folder.mkdir(parents=True)
    net.save_config(folder)
    source = {name: part for part in parts for name in part.shapes()}
    shapes = {name: value for part in parts for name, value in part.blank("meta")}
    split = split_torch_state_dict_into_shards(
        shapes, filename_pattern=_WEIGHTS, max_shard_size=SHARD_SIZE
    )
    for file, names in split.filename_to_tensors.items():
        found: dict[str, Tensor] = {}
        for part in parts:
            found |= part.some(name for name in names if source[name] is part)
        _save_shard(found, folder / file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        files.write_json(folder / (_WEIGHTS.format(suffix="") + ".index.json"), index)


def _save_shard(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # the system's own error is told in words only
        told = re.search(r"\(os error (\d+)\)", str(error))
        if told is None:
            raise
        raise OSError(int(told[1]), str(error), str(path)) from error
