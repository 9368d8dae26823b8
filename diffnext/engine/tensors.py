# SPDX-License-Identifier: Apache-2.0
"""Named tensors on disk (torch.distributed.checkpoint), and networks in the layout of diffusers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor, nn

from diffnext.distributed import env as processes

_WEIGHTS = "diffusion_pytorch_model{suffix}.safetensors"


def save_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write named tensors, each process its own ones or its own shards. Collective."""
    writer = dcp.FileSystemWriter(folder, sync_files=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.save(dict(tensors), storage_writer=writer, no_dist=processes.world_size() == 1)


class SavedTensors:
    """Named tensors of a folder, or those below one prefix, whatever number of processes wrote them.

    Args:
        folder: written by `save_tensors`.
        prefix: names are told without it.
    """

    def __init__(self, folder: str | Path, *, prefix: str = "") -> None:
        self.folder = Path(folder)
        self.prefix = prefix
        self._entries = dcp.FileSystemReader(self.folder).read_metadata().state_dict_metadata

    def below(self, prefix: str) -> SavedTensors:
        """The tensors whose names begin with `prefix`."""
        return SavedTensors(self.folder, prefix=self.prefix + prefix)

    def shapes(self) -> dict[str, torch.Size]:
        """Name and full shape of everything that is there."""
        cut = len(self.prefix)
        return {
            name[cut:]: entry.size
            for name, entry in self._entries.items()
            if name.startswith(self.prefix)
        }

    def read(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors in place; a sharded one gets its own part."""
        if not tensors:
            return
        targets = {self.prefix + name: tensor for name, tensor in tensors.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(targets, storage_reader=dcp.FileSystemReader(self.folder), no_dist=True)

    def full(self) -> dict[str, Tensor]:
        """Everything, whole, on the CPU."""
        cut = len(self.prefix)
        tensors = {
            name[cut:]: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in self._entries.items()
            if name.startswith(self.prefix)
        }
        self.read(tensors)
        return tensors


def save_network(net: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write a network so that its class's `from_pretrained` reads it.

    Args:
        net: says the configuration; its own weights are not looked at.
        tensors: the weights to write, whole, on the CPU.
    """
    folder.mkdir(parents=True)
    net.save_config(folder)
    split = split_torch_state_dict_into_shards(
        dict(tensors), filename_pattern=_WEIGHTS, max_shard_size="10GB"
    )
    for name, keys in split.filename_to_tensors.items():
        shard = {key: tensors[key].contiguous() for key in keys}
        save_file(shard, folder / name, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / (_WEIGHTS.format(suffix="") + ".index.json")).write_text(
            json.dumps(index, indent=2)
        )
