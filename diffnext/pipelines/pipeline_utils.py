# SPDX-License-Identifier: Apache-2.0
"""What the sampling pipelines share: loading, sampling under a bar, decoding, outputs."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from huggingface_hub import snapshot_download
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffnext.image_processor import VaeImageProcessor
from diffnext.models.autoencoders.modeling_utils import strides
from diffnext.models.transformers.generation_3d import generate
from diffnext.pipelines import components
from diffnext.pipelines.loading import scheduler_class

RELEASE = tuple(map(int, diffusers.__version__.split(".")[:2]))
# what diffusers calls the precision of a pipeline; of the other name it warns, or takes no notice
DTYPE = "dtype" if RELEASE >= (0, 40) else "torch_dtype"
DOWNLOADS = ("*.json", "*.txt", "*.model", "*.safetensors")
DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


@dataclass
class ImagePipelineOutput(BaseOutput):
    """Pictures: a list of B, uint8 (B, H, W, 3), or a tensor (B, 3, H, W); latents (B, C, 1, H, W)."""

    images: list[Image.Image] | np.ndarray | Tensor

    @property
    def frames(self) -> np.ndarray | Tensor:
        """The pictures as videos of one frame: an array (B, 1, H, W, 3), or a tensor with T = 1."""
        if not isinstance(self.images, Tensor):
            return np.stack([np.asarray(image) for image in self.images])[:, None]
        return self.images if self.images.dim() == 5 else self.images[:, :, None]


@dataclass
class VideoPipelineOutput(BaseOutput):
    """Videos: uint8 (B, T, H, W, 3), or a tensor (B, 3, T, H, W); latents (B, C, T, H, W)."""

    frames: np.ndarray | Tensor


class PipelineMixin(DiffusionPipeline):
    """A diffusers pipeline whose components come from this package, whatever a folder holds."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> PipelineMixin:
        """Load a pipeline as diffusers does; its `dtype` may be called `torch_dtype`, as guides do.

        No code of the folder is run: `trust_remote_code`, which guides of NOVA pass, is without
        effect, and classes of diffnext are those that are installed.

        Raises:
            ValueError: both names of the precision are given.
        """
        options = kwargs | {"trust_remote_code": False}
        given = [options.pop(name) for name in ("dtype", "torch_dtype") if name in options]
        if len(given) == 2:
            raise ValueError("dtype and torch_dtype are two names of one argument; pass dtype")
        if given:
            options[DTYPE] = given[0]
        return super().from_pretrained(pretrained_model_name_or_path, **options)

    @classmethod
    def load_config(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> dict[str, Any]:
        """The content of model_index.json, classes of diffnext under one address."""
        config = super().load_config(pretrained_model_name_or_path, **kwargs)
        if isinstance(config, dict):
            return {name: _installed(value) for name, value in config.items()}
        return config

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch configurations, tokenizers and weights from the hub, and no code."""
        options = {name: kwargs[name] for name in DOWNLOAD_OPTIONS if name in kwargs}
        return snapshot_download(pretrained_model_name, allow_patterns=DOWNLOADS, **options)

    def sampler(self, *, shift: float | None = None) -> SchedulerMixin:
        """A copy of the scheduler, for one call.

        Args:
            shift: of the flow schedule, in place of the scheduler's own.
        """
        scheduler = copy.deepcopy(self.scheduler)
        if shift is None:
            return scheduler
        if not 0 < shift < math.inf:
            raise ValueError(f"flow_shift is {shift}; a finite number above 0 is wanted")
        if not hasattr(scheduler, "set_shift"):
            raise ValueError(
                f"flow_shift is {shift}, but {type(scheduler).__name__} is no flow scheduler; "
                "leave it None"
            )
        scheduler.set_shift(shift)
        return scheduler

    def sample_latents(
        self,
        scheduler: SchedulerMixin,
        cond: Tensor,
        *,
        num_frames: int,
        num_ar_steps: int,
        latents: Sequence[Tensor] = (),
        disable_progress_bar: bool = False,
        **options: Any,
    ) -> Tensor:
        """Sample as `generate` does, which says what the arguments are, under a progress bar over all
        sets of tokens, as `set_progress_bar_config` wants it.
        """
        total = (num_frames - len(latents)) * num_ar_steps
        bar = tqdm(disable=True) if disable_progress_bar else self.progress_bar(total=total)
        with bar:
            return generate(
                self.transformer,
                scheduler,
                cond,
                num_frames=num_frames,
                num_ar_steps=num_ar_steps,
                latents=latents,
                progress=bar.update,
                **options,
            )

    def decode_latents(self, latents: Tensor, batch_size: int) -> Tensor:
        """Scaled latents (B, C, T, H, W) to pixels in [-1, 1].

        Args:
            batch_size: how many samples the autoencoder decodes at once.

        Returns:
            (B, 3, H, W) for T = 1, else (B, 3, T', H, W).
        """
        frames = latents.shape[2]
        if frames == 1 or strides(self.vae)[0] == 1:
            latents = latents.transpose(1, 2).flatten(0, 1)  # (B * T, C, H, W)
        latents = self.vae.unscale_(latents).to(self.vae.dtype)
        pixels = torch.cat([self.vae.decode(part).sample for part in latents.split(batch_size)])
        if frames > 1 and pixels.dim() == 4:
            return pixels.unflatten(0, (-1, frames)).transpose(1, 2)
        return pixels

    def make_output(
        self, latents: Tensor, output_type: str, batch_size: int
    ) -> ImagePipelineOutput | VideoPipelineOutput:
        """Decode latents (B, C, T, H, W), give them the type asked for, and end the offloading of a call."""
        output = latents
        if output_type != "latent":
            pixels = self.decode_latents(latents, batch_size)
            output = VaeImageProcessor().postprocess(pixels, output_type)
        self.maybe_free_model_hooks()
        if latents.shape[2] == 1:
            return ImagePipelineOutput(images=output)
        return VideoPipelineOutput(frames=output)


@apply_forward_hook
def embed(net: nn.Module, **cond: Tensor) -> Tensor:
    """Condition tokens by the network, which an offloading pipeline brings to its device first."""
    return net.embed(**cond)


def check_counts(**counts: int) -> None:
    """Raise ValueError unless all of these arguments of a pipeline are whole numbers from 1 up."""
    for name, value in counts.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} is {value!r}; a whole number from 1 up is wanted")


def check_conditions(net: nn.Module, part: str, other: str) -> None:
    """Raise ValueError unless the network has `part`, which takes what this pipeline is prompted with."""
    if not hasattr(net, part):
        raise ValueError(f"the transformer has no {part}: it was made for {other}")


def check_generator(
    generator: torch.Generator | Sequence[torch.Generator] | None, batch: int
) -> None:
    """Raise ValueError unless there is one generator, none, or one for each sample."""
    several = generator if isinstance(generator, (list, tuple)) else [generator]
    if not all(one is None or isinstance(one, torch.Generator) for one in several):
        raise ValueError(f"generator is {generator!r}; torch.Generator().manual_seed(0) is one")
    if isinstance(generator, (list, tuple)) and len(generator) != batch:
        raise ValueError(
            f"generator has {len(generator)} entries for {batch} samples; pass one generator, or "
            "one for each sample"
        )


def sampling_scheduler(scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler that a folder names for sampling, which may differ from that for training."""
    name = scheduler.config.get("_sample_class_name")
    if name is None or name == type(scheduler).__name__:
        return scheduler
    return scheduler_class(name, "_sample_class_name").from_config(scheduler.config)


def _installed(entry: Any) -> Any:
    """Address of a component in `components` where it has one."""
    if not isinstance(entry, (list, tuple)) or len(entry) != 2:
        return entry
    module, name = entry
    if not str(module).startswith("diffnext."):
        return entry
    if name not in components.__all__:
        raise ValueError(f"model_index.json names {module}.{name}, which diffnext does not have")
    return [components.__name__, name]
