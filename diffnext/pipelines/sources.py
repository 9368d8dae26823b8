# SPDX-License-Identifier: Apache-2.0
"""Find the parts of a pipeline, a snapshot of training among them, and load them for sampling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from diffnext.pipelines import components
from diffnext.pipelines.builder import get_pipeline_path
from diffnext.pipelines.loading import INDEX, read_index
from diffnext.pipelines.nova.pipeline_nova import NOVAPipeline
from diffnext.pipelines.nova.pipeline_nova_c2i import NOVAC2IPipeline
from diffnext.utils.temporary import temporary_folder

NETWORK = "transformer"
_STEP = re.compile(r"_iter_(\d+)$")
_DIRECTORY = re.compile(r"^# directory: (.+)$", re.MULTILINE)  # a line of a run's config.yaml


@dataclass(frozen=True)
class Source:
    """Where the parts of a pipeline are."""

    model: str  # folder with model_index.json
    snapshot: str | None = None  # folder with the network that replaces the model's own
    modules: dict[str, str] = field(default_factory=dict)  # component to its folder elsewhere


@dataclass(frozen=True)
class Network:
    """A network in memory."""

    config: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]  # all that it saves, by name


def locate(model: str, snapshot: str | None) -> Source:
    """Find the folders of a pipeline and of the network that replaces its own.

    Args:
        model: folder of a pipeline; or of a snapshot, whose pipeline is what it was trained from,
            with the components that its run took from elsewhere.
        snapshot: folder that holds transformer/, or snapshots of which the newest is taken.

    Raises:
        ValueError: neither is there.
    """
    if not (Path(model) / INDEX).is_file() and snapshot is None:
        source = _trained_from(newest_snapshot(model))
    else:
        source = Source(model, None if snapshot is None else newest_snapshot(snapshot))
    read_index(source.model)
    return source


def newest_snapshot(folder: str) -> str:
    """`folder` itself if it holds the network, or is it; else its snapshot with the most steps."""
    path = Path(folder)
    if path.name == NETWORK and (path / "config.json").is_file():
        return str(path.parent)
    if (path / NETWORK / "config.json").is_file():
        return str(path)
    inside = [*path.glob("*"), *path.glob("checkpoints/*")]
    found = [one for one in inside if _STEP.search(one.name)]
    found = [one for one in found if (one / NETWORK / "config.json").is_file()]
    if not found:
        raise ValueError(
            f"{folder} holds no {INDEX}, no {NETWORK}/ and no snapshot <prefix>_iter_<step>; give "
            "the folder of a model, of a snapshot, or of a run"
        )
    return str(max(found, key=lambda one: int(_STEP.search(one.name)[1])))


def _trained_from(snapshot: str) -> Source:
    """The pipeline that a run started from, which its config.yaml names."""
    file = Path(snapshot).absolute().parents[1] / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; pass the model that was trained as --model")
    text = file.read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    weights = config.get("MODEL", {}).get("WEIGHTS")
    if not weights:
        raise ValueError(f"{file} has no MODEL.WEIGHTS; pass the model that was trained as --model")
    # paths are relative to where the run was started; a config without that line, to where we are
    recorded = _DIRECTORY.search(text)
    start = Path(recorded[1] if recorded else ".")
    given = config.get("PIPELINE", {}).get("MODULES") or {}
    # "" goes without a component, such as a text encoder that training had no need of; sampling has
    modules = {name: str(start / path) for name, path in given.items() if path and name != NETWORK}
    return Source(str(start / weights), snapshot, modules)


def load(
    source: Source,
    *,
    device: str | None = None,
    dtype: str | None = None,
    network: Network | None = None,
) -> NOVAPipeline | NOVAC2IPipeline:
    """Load a pipeline from its parts.

    Args:
        device: None for the accelerator that is there, else the CPU.
        dtype: name of torch's; None for float32 on the CPU, float16 elsewhere.
        network: takes the place of the model's own, and of a snapshot.
    """
    if device is None:
        device = default_device()
    check_device(device)
    if dtype is None:
        dtype = "float32" if device == "cpu" else "float16"
    options: dict[str, Any] = {"torch_dtype": getattr(torch, dtype)}
    index = read_index(source.model)
    cls = getattr(components, index[NETWORK][1])
    if network is not None:
        net = cls.from_config(dict(network.config)).eval()
        net.load_state_dict(network.weights, assign=True)  # a copy less, and where they are
        options[NETWORK] = nn.Module.to(net, options["torch_dtype"])  # diffusers' own warns
    elif source.snapshot is not None:
        options[NETWORK] = cls.from_pretrained(Path(source.snapshot) / NETWORK, **options)
    else:
        _check_trained(source.model)
    classes = {cls.__name__: cls for cls in (NOVAPipeline, NOVAC2IPipeline)}
    name = index["_class_name"]
    if name not in classes:
        found = Path(source.model) / INDEX
        raise ValueError(f"{found} names {name}; {sorted(classes)} can be sampled")
    with temporary_folder() as links:
        path = get_pipeline_path(source.model, source.modules, target_path=links)
        pipe = classes[name].from_pretrained(path, **options)
    return pipe.to(device)


def _check_trained(model: str) -> None:
    """Refuse a model that brings the parts of a network without its weights, as a start for training."""
    folder = Path(model) / NETWORK
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ValueError(
            f"{folder} holds no weights: the model is not trained; pass a --snapshot of a run that "
            "started from it"
        )


def default_device() -> str:
    """The accelerator, where there is one that can be used; PyTorch names what it was built for."""
    if not torch.accelerator.is_available():
        return "cpu"
    return str(torch.accelerator.current_accelerator())


def check_device(device: str) -> None:
    """Raise ValueError unless a tensor can be put there."""
    try:
        torch.empty(1, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used: {reason}") from error
