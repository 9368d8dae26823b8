# SPDX-License-Identifier: Apache-2.0
"""What NOVA's training pipelines share: conditions, random draws, the masked denoising loss.

Letters: B batch, C channel, T frame, H W latent size, L text length, D text width, N tokens of a
frame, V of these visible, K masked, P values of a patch, R repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from diffnext.data.schema import Batch
from diffnext.models.autoencoders.latent_scale import LatentConfig, sample_moments
from diffnext.models.embeddings import NUM_CLASSES
from diffnext.models.transformers.transformer_3d import select
from diffnext.pipelines.nova.prompts import encode_prompts
from diffnext.pipelines.train_base import Expected, Grid, Inputs, StepOutput, TrainPipeline
from diffnext.schedulers import densities
from diffnext.utils.moments import latent_channels
from diffnext.utils.seeding import Draws

if TYPE_CHECKING:  # data are compared with a family before diffusers is imported
    from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel
    from diffnext.schedulers.scheduling_cfm import FlowMatchEulerDiscreteScheduler
    from diffnext.schedulers.scheduling_ddpm import DDPMScheduler

DEFAULT_FLOW = 5.0  # motion score of a video that has none
DEFAULT_FPS = 12.0


@dataclass(frozen=True)
class StepDraws:
    """Everything that is random in one training forward."""

    visible_ids: Tensor  # (B * T, V) int64
    masked_ids: Tensor  # (B * T, K) int64
    timesteps: Tensor  # (R, B * T, K) int64, as the scheduler draws them
    noise: Tensor  # (R, B * T, K, P)


class NOVATrainPipeline(TrainPipeline):
    """NOVA at training time.

    Args:
        transformer: the network that learns.
        scheduler: how noise is added while training.
        vae_config: configuration of the autoencoder that made the moments; its scale and shift are
            read, its weights are not needed.
        tokenizer, text_encoder: encode prompts that the cache holds as text; not needed where it
            holds embeddings, or classes.
        dropout: probability that a sample is trained without its prompt or class.
        loss_repeat: how many times and noises each masked token is denoised with.
    """

    frozen: ClassVar[tuple[str, ...]] = ()  # modules that do not learn, if the network has them

    def __init__(
        self,
        transformer: NOVATransformer3DModel,
        scheduler: DDPMScheduler | FlowMatchEulerDiscreteScheduler,
        *,
        vae_config: Mapping[str, object],
        tokenizer: object | None = None,
        text_encoder: nn.Module | None = None,
        dropout: float = 0.1,
        loss_repeat: int = 4,
    ) -> None:
        self.transformer = transformer
        self.scheduler = scheduler
        self.latent_config = LatentConfig(vae_config)
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.dropout = dropout
        self.loss_repeat = loss_repeat

    @classmethod
    def expects(cls, config: Mapping[str, Any]) -> Expected:
        size, stride = config["image_size"], config["image_stride"]
        height, width = (size, size) if isinstance(size, int) else size
        return Expected(
            channels=config["image_dim"],
            size=(height // stride, width // stride),
            text_width=config["text_token_dim"] or None,
            text_length=config.get("text_token_len"),
            frames=config["video_base_size"][0],
            classes=None if config["text_token_dim"] else NUM_CLASSES,
        )

    @property
    def model(self) -> NOVATransformer3DModel:
        return self.transformer

    def to(self, device: torch.device | str) -> NOVATrainPipeline:
        if self.text_encoder is not None:
            self.text_encoder.to(device)
        return self

    def configure(self, *, checkpointing: int = 0) -> nn.Module:
        self.transformer.requires_grad_(True)
        modules = dict(self.transformer.named_modules())
        for name in self.frozen:
            if name in modules:
                modules[name].requires_grad_(False)
        self.transformer.set_checkpointing(checkpointing)
        return self.transformer.train()

    @torch.no_grad()
    def prepare(self, batch: Batch, *, draws: Draws) -> Inputs:
        dropped = draws.stream("dropout").rand() < self.dropout  # (B,)
        return self._inputs(batch, draws, dropped)

    def _inputs(self, batch: Batch, draws: Draws, dropped: Tensor) -> Inputs:
        """`dropped` (B,) samples have no prompt."""
        channels = latent_channels(batch.moments.size(1))
        noise = draws.stream("posterior").randn(channels, *batch.moments.shape[2:])
        moments = batch.moments.to(draws.device, non_blocking=True)
        latents = sample_moments(moments, noise)
        cond = self.conditions(batch, dropped)
        return Inputs(self.latent_config.scale_(latents), cond, batch, draws)

    def conditions(self, batch: Batch, dropped: Tensor) -> dict[str, Tensor]:
        """Keyword arguments of the network's `embed`; `dropped` (B,) samples have no prompt."""
        prompts = self._states(batch)
        text, length = self.transformer.text_embed.pad(prompts)
        cond = {"text": text, "text_length": torch.where(dropped, 0, length)}
        if self.transformer.has_motion:
            cond["flow"], cond["fps"] = self._motion(batch, dropped.device)
        return cond

    def _motion(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Motion score and frames a second of each sample, (B,) each."""
        row = torch.ones(len(batch), device=device)
        flow = DEFAULT_FLOW * row if batch.flow is None else batch.flow
        return flow.to(device, non_blocking=True), DEFAULT_FPS * row

    def _states(self, batch: Batch) -> Sequence[Tensor]:
        if batch.prompts is None:
            raise ValueError(
                f"records {batch.index.tolist()} have no prompt; {type(self).__name__} needs a "
                "caption or a prompt embedding in each record"
            )
        length = self.transformer.text_embed.num_tokens
        return encode_prompts(self.tokenizer, self.text_encoder, batch.prompts, length)

    def draw(self, inputs: Inputs) -> StepDraws:
        """Draw what one forward needs. The share of masked tokens is common to the global batch."""
        draws = inputs.draws
        num_frames = inputs.latents.size(2)
        num_tokens, values = self.transformer.patchify(inputs.latents[:1, :, 0]).shape[-2:]
        num_visible = _count_visible(num_tokens, draws)
        order = draws.stream("order").rand(num_frames, num_tokens).argsort(-1).flatten(0, 1)
        timesteps = self._draw_timesteps(num_frames, num_tokens - num_visible, draws)
        noise = draws.stream("noise").randn(*timesteps.shape[1:], values)  # (B, R, T, K, P)
        return StepDraws(
            visible_ids=order[:, :num_visible],
            masked_ids=order[:, num_visible:],
            timesteps=timesteps.transpose(0, 1).flatten(1, 2),
            noise=noise.transpose(0, 1).flatten(1, 2),
        )

    def _draw_timesteps(self, num_frames: int, num_masked: int, draws: Draws) -> Tensor:
        """Of each masked token in each repeat, (B, R, T, K)."""
        shape = (self.loss_repeat, num_frames, num_masked)
        return self.scheduler.draw_timesteps(draws.stream("timestep"), *shape)

    def noise_levels(self, shape: Sequence[int], draws: Draws) -> Tensor:
        _, channels, num_frames, height, width = shape
        frame = torch.empty(1, channels, height, width, device="meta")
        num_tokens = self.transformer.patchify(frame).size(-2)
        num_masked = num_tokens - _count_visible(num_tokens, draws)
        timesteps = self._draw_timesteps(num_frames, num_masked, draws)
        return self.scheduler.noise_levels(timesteps).flatten(1)  # (B, R * T * K)

    def loss(self, net: nn.Module, inputs: Inputs, *, draws: StepDraws | None = None) -> StepOutput:
        """Denoising error of the masked tokens; `draws` fixes what is otherwise drawn."""
        error = self._errors(net, inputs, self.draw(inputs) if draws is None else draws)
        return _reduce(error, num_frames=inputs.latents.size(2))

    def _errors(self, net: nn.Module, inputs: Inputs, draws: StepDraws) -> Tensor:
        """Squared error of each masked token, (R, B * T, K) float32."""
        frames = inputs.latents.transpose(1, 2).flatten(0, 1)  # (B * T, C, H, W)
        x0 = select(self.transformer.patchify(frames), draws.masked_ids)  # (B * T, K, P)
        x0 = x0.expand(len(draws.noise), -1, -1, -1)
        prediction = net(
            inputs.latents,
            inputs.cond,
            visible_ids=draws.visible_ids,
            masked_ids=draws.masked_ids,
            noisy=self.scheduler.add_noise(x0, draws.noise, draws.timesteps),
            timestep=self.scheduler.model_timesteps(draws.timesteps),
        )
        target = self.scheduler.target(x0, draws.noise, draws.timesteps)
        return (prediction.float() - target).square().mean(-1)

    @torch.no_grad()
    def evaluate(
        self, net: nn.Module, batch: Batch, *, draws: Draws, grid: Grid
    ) -> dict[str, Tensor]:
        """The loss with prompts, on the grid of timesteps and shares of masked tokens.

        A token has the same noise at all timesteps, and what is masked at a lower share is masked at
        a higher one: curves differ by their level alone.

        Returns:
            "loss", the mean; "loss_t<timestep>", "loss_m<percent masked>" and
            "loss_t<timestep>_m<percent masked>" of the grid; (B,) each.
        """
        dropped = torch.zeros(len(batch), dtype=torch.bool, device=draws.device)
        inputs = self._inputs(batch, draws, dropped)
        table = [self._at(net, inputs, ratio, grid.timesteps) for ratio in grid.mask_ratios]
        return name_grid(torch.stack(table, dim=1), grid)

    def _at(
        self, net: nn.Module, inputs: Inputs, ratio: float, timesteps: Sequence[float]
    ) -> Tensor:
        """Loss of each sample at each timestep, (timesteps, B), with a share of its tokens masked."""
        num_frames = inputs.latents.size(2)
        num_tokens, values = self.transformer.patchify(inputs.latents[:1, :, 0]).shape[-2:]
        num_visible = min(round((1 - ratio) * num_tokens), num_tokens - 1)
        order = inputs.draws.stream("order").rand(num_frames, num_tokens).argsort(-1).flatten(0, 1)
        noise = inputs.draws.stream("noise").randn(num_frames, num_tokens, values).flatten(0, 1)
        masked_ids = order[:, num_visible:]
        places = torch.tensor([self._place(t) for t in timesteps], device=order.device)
        draws = StepDraws(
            visible_ids=order[:, :num_visible],
            masked_ids=masked_ids,
            timesteps=places[:, None, None].expand(-1, *masked_ids.shape),
            noise=select(noise, masked_ids).expand(len(places), -1, -1, -1),
        )
        errors = self._errors(net, inputs, draws).mean(-1)  # (timesteps, B * T)
        return _sum_frames(errors.unflatten(1, (-1, num_frames)))

    def _place(self, timestep: float) -> int:
        """What the scheduler calls the timestep nearest to one that the network is told."""
        places = torch.arange(self.scheduler.config.num_train_timesteps)
        told = self.scheduler.model_timesteps(places)
        return int((told - timestep).abs().argmin())


def _reduce(error: Tensor, *, num_frames: int) -> StepOutput:
    """Mean over masked tokens; for videos the first frame and the others each on their own."""
    by_sample = error.detach().unflatten(1, (-1, num_frames)).mean((0, 3))  # (B, T)
    per_sample = _sum_frames(by_sample)
    count = error.numel() + 1e-5
    if num_frames == 1:
        loss = error.sum() / count
        return StepOutput(loss, {"loss": loss.detach()}, per_sample)
    by_frame = error.unflatten(1, (-1, num_frames)).sum((0, 1, 3)) / count  # (T,)
    first = num_frames * by_frame[0]
    later = num_frames / (num_frames - 1) * by_frame[1:].sum()
    metrics = {"loss_t2i": first.detach(), "loss_i2i": later.detach()}
    return StepOutput(first + later, metrics, per_sample)


def _sum_frames(errors: Tensor) -> Tensor:
    """Error of the first of T frames plus the mean of the others', (..., T) to (...)."""
    if errors.size(-1) == 1:
        return errors[..., 0]
    return errors[..., 0] + errors[..., 1:].mean(-1)


def name_grid(losses: Tensor, grid: Grid) -> dict[str, Tensor]:
    """Means of losses (timesteps, mask_ratios, B) along either side and over all, and single places."""
    times = [f"_t{t:g}" for t in grid.timesteps]
    masks = [f"_m{100 * ratio:g}" for ratio in grid.mask_ratios]
    named = {"loss": losses.mean((0, 1))}
    named |= {f"loss{t}": losses[i].mean(0) for i, t in enumerate(times)}
    if len(masks) > 1:
        named |= {f"loss{m}": losses[:, j].mean(0) for j, m in enumerate(masks)}
        named |= {
            f"loss{t}{m}": losses[i, j] for i, t in enumerate(times) for j, m in enumerate(masks)
        }
    return named


def _count_visible(num_tokens: int, draws: Draws) -> int:
    """Visible tokens of a frame, the same in the whole global batch."""
    return round((1 - mask_ratio(draws.stream("ratio").shared())) * num_tokens)


def mask_ratio(generator: torch.Generator) -> float:
    """Share of masked tokens: a normal distribution around 1, cut to [0.7, 1]."""
    u = torch.rand(1, generator=generator, dtype=torch.float64).item()
    return densities.truncated_normal(u, mean=1.0, std=0.25, low=0.7, high=1.0)
