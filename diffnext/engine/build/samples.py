# SPDX-License-Identifier: Apache-2.0
"""Samples of a run: which prompts, by which pipeline, with which settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from diffnext.distributed.env import Env
from diffnext.engine.backends.base import PRECISIONS
from diffnext.engine.build.config import Config
from diffnext.engine.build.folders import component_folder
from diffnext.engine.component_files import saved_shapes
from diffnext.engine.hooks.samples import Draw
from diffnext.pipelines import sampling, sources
from diffnext.utils.registry import check_options

BATCH_SIZE = 4  # samples at a time
FPS = 12.0  # of video files


def check_samples(cfg: Config, *, classes: bool) -> None:
    """Refuse options that cannot be sampled with.

    Args:
        classes: whether the model makes pictures of classes, not of texts.

    Raises:
        ValueError, FileNotFoundError: no prompts, others than the model takes, unknown settings.
    """
    check_options(sampling.Settings, cfg.SAMPLE.CONFIG, key="SAMPLE.CONFIG")
    if cfg.SAMPLE.EVERY == 0:
        return
    wanted = int if classes else str
    wrong = [prompt for prompt in prompts_of(cfg) if not isinstance(prompt, wanted)]
    if wrong:
        kind = "numbers of classes" if classes else "texts"
        raise ValueError(f"SAMPLE.PROMPTS has {wrong[:3]}; {cfg.PIPELINE.TYPE} takes {kind}")


def prompts_of(cfg: Config) -> list[str | int]:
    """The prompts of a run, of a list or a file."""
    given = cfg.SAMPLE.PROMPTS
    if not given:
        raise ValueError(
            f"SAMPLE.EVERY is {cfg.SAMPLE.EVERY} and SAMPLE.PROMPTS is empty; give a list of prompts "
            "or a file of them, or set SAMPLE.EVERY 0"
        )
    return sampling.read_prompts(given) if isinstance(given, str) else list(given)


def dtype_of(cfg: Config, device: torch.device) -> torch.dtype:
    """What is sampled in."""
    return torch.float32 if device.type == "cpu" else PRECISIONS[cfg.MODEL.PRECISION]


def bytes_while_drawing(cfg: Config, net: nn.Module) -> int:
    """Of the weights that a process loads to sample, beside those that learn.

    Args:
        net: the network, may be on the meta device.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = sum(param.numel() for param in net.parameters())
    for name in ("vae", "text_encoder"):
        shapes = saved_shapes(component_folder(cfg, name)) or {}
        count += sum(map(math.prod, shapes.values()))
    return count * dtype_of(cfg, device).itemsize


def make_draw(cfg: Config, env: Env) -> Draw | None:
    """What makes this process's share of the samples, as scripts/generate.py does; None for no share."""
    modules = {k: v for k, v in cfg.PIPELINE.MODULES.items() if v and k != sources.NETWORK}
    source = sources.Source(cfg.MODEL.WEIGHTS, None, modules)
    device, dtype = str(env.device), str(dtype_of(cfg, env.device)).removeprefix("torch.")
    jobs = sampling.plan(prompts_of(cfg), samples=1, seed=cfg.RNG_SEED)[env.rank :: env.world]
    if not jobs:
        return None

    def draw(
        config: Mapping[str, Any], weights: Mapping[str, Tensor], folder: Path
    ) -> list[tuple[Path, str]]:
        network = sources.Network(config, weights)
        with _no_bars():
            pipe = sources.load(source, device=device, dtype=dtype, network=network)
        length = sampling.latent_length(pipe, num_frames=None, latent=None)
        settings = sampling.Settings(**{"max_latent_length": length, **cfg.SAMPLE.CONFIG})
        files = sampling.Files(
            str(folder),
            suffix=sampling.suffix(None, settings.max_latent_length),
            fps=FPS,
            origin={"model": cfg.MODEL.WEIGHTS, "modules": modules, "run": str(folder.parents[1])},
        )
        paths = sampling.write_samples(
            pipe, jobs, settings, files, batch_size=BATCH_SIZE, progress=False
        )
        return [(path, str(job.prompt)) for path, job in zip(paths, jobs, strict=True)]

    return draw


@contextmanager
def _no_bars() -> Iterator[None]:
    """Within, loading shows no progress bars among the lines of the log."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()
