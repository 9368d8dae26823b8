# SPDX-License-Identifier: Apache-2.0
"""Sampling from NOVA: frames in order, sets of tokens in a random order, values by diffusion.

Letters: B batch, C channel, T frame, H W latent size, G guidance passes, L condition tokens, D width,
M tokens of a frame for the video encoder, N for the image encoder, K tokens of one set, P values of a
patch.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from diffnext.models.attention import KVCache
from diffnext.models.guidance_scaler import Guidance
from diffnext.models.transformers.transformer_3d import Transformer3D, select


@apply_forward_hook
@torch.no_grad()
def generate(
    net: Transformer3D,
    scheduler: SchedulerMixin,
    cond: Tensor,
    *,
    num_frames: int,
    num_ar_steps: int,
    num_diffusion_steps: int,
    guidance: Guidance,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    size: tuple[int, int] | None = None,
    latents: Sequence[Tensor] = (),
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Sample latents.

    Numbers are drawn from `generator` in this order: uniform (B, N, 1) for the order of tokens, the
    same for every frame; then for each set of tokens, normal (B, C, H, W) to start from and what the
    scheduler draws in its steps.

    Args:
        net: the network.
        scheduler: how to denoise; its schedule is set here.
        cond: (G * B, L, D) condition tokens, pass by pass as `guidance` says.
        num_frames: latent frames T, those in `latents` included.
        num_ar_steps: sets of tokens a frame.
        num_diffusion_steps: denoising steps a set.
        guidance: how the passes become one prediction.
        generator: source of all numbers, or one source for each sample; None for torch's own.
        size: (H, W) of the latents; None for the size that the model was made for.
        latents: first frames (B, C, H, W) that are given and not sampled.
        progress: called with 1 after each set of tokens.

    Returns:
        (B, C, T, H, W) float32.
    """
    passes = guidance.num_passes
    if len(cond) % passes:
        raise ValueError(
            f"cond has {len(cond)} rows, wanted a multiple of {passes} guidance passes"
        )
    size = net.latent_size if size is None else size
    batch = len(cond) // passes
    sampler = _FrameSampler(
        net,
        scheduler,
        num_ar_steps=num_ar_steps,
        num_diffusion_steps=num_diffusion_steps,
        guidance=guidance,
        generator=generator,
        size=size,
        order=_token_order(net, batch, size, generator, cond.device),
        progress=progress,
    )
    past = _Past(net, cond, num_frames=num_frames, size=size, guidance=guidance)
    frames: list[Tensor] = []
    for number in range(num_frames):
        video = past.condition(frames[-1] if frames else None)
        if number < len(latents):
            frames.append(latents[number].to(cond.device, torch.float32))
        else:
            frames.append(sampler.sample(video))
    return torch.stack(frames, dim=2)


def set_sizes(num_steps: int, num_tokens: int) -> list[int]:
    """How many tokens each autoregressive step predicts: differences of a cosine, arXiv:2202.04200."""
    left = [round(math.cos(math.pi / 2 * k / num_steps) * num_tokens) for k in range(num_steps + 1)]
    return [before - after for before, after in itertools.pairwise(left)]


def _token_order(
    net: Transformer3D,
    batch: int,
    size: tuple[int, int],
    generator: torch.Generator | Sequence[torch.Generator] | None,
    device: torch.device,
) -> Tensor:
    """A random order of a frame's tokens for each sample, (B, N)."""
    patch = net.image_encoder.patch_embed.patch
    num_tokens = (size[0] // patch) * (size[1] // patch)
    own = generator if isinstance(generator, (list, tuple)) else [generator]
    shape = (batch // len(own), num_tokens, 1)
    draws = []
    for one in own:
        source = "cpu" if one is None else one.device
        draws.append(torch.rand(shape, generator=one, device=source).to(device))
    return torch.cat(draws).argsort(dim=1).squeeze(-1)


class _Past:
    """The video encoder's view of the frames so far, one frame at a time."""

    def __init__(
        self,
        net: Transformer3D,
        cond: Tensor,
        *,
        num_frames: int,
        size: tuple[int, int],
        guidance: Guidance,
    ) -> None:
        self.net = net
        self.cond = cond  # (G * B, L, D)
        self.num_frames = num_frames
        self.size = size
        self.guidance = guidance
        self.cache = KVCache(len(net.video_encoder.blocks))
        self.outputs: list[Tensor] = []  # of the frames so far, each (G * B, M, D)

    def condition(self, previous: Tensor | None) -> Tensor:
        """Condition of the next frame, (G * B, M, D), after frame `previous` (B, C, H, W) or none."""
        number = len(self.outputs)
        video = self.net.encode_frames(
            self._tokens(previous),
            torch.tensor([number], device=self.cond.device),
            self.num_frames,
            self.size,
            cond=self.cond if number == 0 else None,
            cache=self.cache,
        )
        self.outputs.append(video)
        return video if number == 0 else self.net.mix(self.outputs[0], video)

    def _tokens(self, previous: Tensor | None) -> Tensor:
        """The frame before as tokens; a pass without video has the first tokens in its place."""
        first = self.net.first_tokens(len(self.cond), self.size)
        if previous is None:
            return first
        seen = self.net.video_tokens(previous.unsqueeze(2))  # (B, M, D)
        unseen = first[: len(previous)].to(seen.dtype)
        return torch.cat([seen if sees else unseen for sees in self.guidance.video_passes])


class _FrameSampler:
    """Samples one frame from its condition, with the settings of a call."""

    def __init__(
        self,
        net: Transformer3D,
        scheduler: SchedulerMixin,
        *,
        num_ar_steps: int,
        num_diffusion_steps: int,
        guidance: Guidance,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        size: tuple[int, int],
        order: Tensor,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.net = net
        self.scheduler = scheduler
        self.num_diffusion_steps = num_diffusion_steps
        self.guidance = guidance
        self.generator = generator
        self.size = size
        self.order = order  # (B, N)
        self.set_sizes = set_sizes(num_ar_steps, order.size(1))
        self.progress = progress
        parameters = inspect.signature(scheduler.step).parameters
        self.step_options = {"generator": generator} if "generator" in parameters else {}

    def sample(self, video: Tensor) -> Tensor:
        """(G * B, M, D) to a frame (B, C, H, W)."""
        channels = self.net.config.image_dim
        frame = video.new_zeros(len(self.order), channels, *self.size, dtype=torch.float32)
        patches = self.net.patchify(frame)  # (B, N, P)
        known = 0
        for step, count in enumerate(self.set_sizes):
            if count > 0:
                scale = self.guidance.scale_at(step, len(self.set_sizes))
                patches = self._predict(patches, video, known, count, scale)
            known += count
            if self.progress is not None:
                self.progress(1)
        return self.net.unpatchify(patches, *self.size)

    def _predict(
        self, patches: Tensor, video: Tensor, known: int, count: int, scale: float
    ) -> Tensor:
        """Fill the next `count` tokens of patches (B, N, P), of which `known` are there."""
        passes = self.guidance.num_passes
        chosen = self.order[:, known : known + count]  # (B, K)
        known_ids = self.order[:, :known]
        z = self.net.encode_image(
            patches.repeat(passes, 1, 1), video, known_ids.repeat(passes, 1), self.size
        )
        z = select(z, chosen.repeat(passes, 1)).unflatten(0, (passes, -1))  # (G, B, K, D)
        x = self._denoise(z, chosen, scale)
        places = chosen.unsqueeze(-1).expand(-1, -1, patches.size(-1))
        return patches.scatter(1, places, select(self.net.patchify(x), chosen))

    def _denoise(self, z: Tensor, chosen: Tensor, scale: float) -> Tensor:
        """Run the diffusion of tokens `chosen` (B, K) under z (G, B, K, D); returns (B, C, H, W).

        The state is a whole frame, so that the schedulers of diffusers step it and draw the numbers
        that they draw for a frame. Only the chosen tokens are predicted; in place of the others
        stands the state itself, which counts in the norms that guidance compares.
        """
        decoder = self.net.image_decoder
        cond = decoder.time_cond_embed.condition_proj(z)  # the same in every step
        shape = (len(chosen), self.net.config.image_dim, *self.size)
        x = randn_tensor(shape, generator=self.generator, device=z.device, dtype=torch.float32)
        self.scheduler.set_timesteps(self.num_diffusion_steps)
        for timestep in self.scheduler.timesteps:
            if timestep < self.guidance.trunc:
                cond = cond[:1]
            patches = self.net.patchify(x)  # (B, N, P)
            noisy = select(patches, chosen).repeat(len(cond), 1, 1, 1)  # (G, B, K, P)
            told = torch.full((*cond.shape[:2], 1), float(timestep), device=z.device)
            embedded = cond + decoder.time_cond_embed.embed_timestep(told)
            tokens = decoder.denoise(noisy, embedded).float()  # (G, B, K, P)
            places = chosen.unsqueeze(-1).expand_as(tokens)
            predictions = patches.expand(len(tokens), -1, -1, -1).scatter(2, places, tokens)
            guided = self.guidance.combine(predictions, scale)
            x = self._step(self.net.unpatchify(guided, *self.size), timestep, x)
        return x

    def _step(self, output: Tensor, timestep: Tensor, x: Tensor) -> Tensor:
        """One step of the scheduler; those that draw numbers draw from the call's generator."""
        options = self.step_options
        return self.scheduler.step(output, timestep, x, return_dict=False, **options)[0]
