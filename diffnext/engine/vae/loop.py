# SPDX-License-Identifier: Apache-2.0
"""The training of one autoencoder: a step, the average of the weights, and a run that can be resumed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffnext.engine.lr_scheduler import make_schedule
from diffnext.engine.vae import losses, state
from diffnext.engine.vae.muon import Muon, split_parameters
from diffnext.engine.vae.sources import Batches
from diffnext.utils.mixing import mix

MUON_RATE = 10.0  # Muon's learning rate over Adam's: its steps have norm 1, not the gradient's sign
CLIP = 1.0  # norm that the gradient is cut to


@dataclass(frozen=True)
class Settings:
    """What the numbers of a training depend on, besides the data and the configuration.

    Args:
        lr: Adam's learning rate at the top; it warms up, then falls as a half cosine to a hundredth.
        kl_weight: of the divergence, nats a latent number.
        adversarial_weight: of the discriminator's judgement; 0 trains none.
        adversarial_start: the step at which that judgement begins to count.
        ema: decay of the average of the weights.
    """

    steps: int
    lr: float = 2e-3
    kl_weight: float = 1e-4
    adversarial_weight: float = 0.0
    adversarial_start: int = 0
    ema: float = 0.999
    seed: int = 0


class Trainer:
    """Owns an autoencoder, its average, its discriminator and their optimizers.

    Args:
        vae: starts with the weights that it has.
        batches: training data by step.
        described: settings beyond `settings` that a resumed run must share (sizes, configuration).
        dtype: of the forward pass; weights stay float32.
    """

    def __init__(
        self,
        vae: nn.Module,
        batches: Batches,
        settings: Settings,
        *,
        described: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings = settings
        self.described = {**asdict(settings), **described}
        self.batches = batches
        self.device = device
        self.dtype = dtype
        self.vae = vae.to(device).train()
        if batches.lengths == (1,):
            self.vae.to(memory_format=torch.channels_last)  # a fifth faster on CPUs
        self.average = copy.deepcopy(self.vae).eval().requires_grad_(False)
        self.optimizers = _optimizers(self.vae, settings.lr)
        self.discriminator: nn.Module | None = None
        if settings.adversarial_weight > 0:
            torch.manual_seed(mix(settings.seed, "discriminator"))
            self.discriminator = losses.PatchDiscriminator().to(device)
            judge = torch.optim.AdamW(
                self.discriminator.parameters(), lr=settings.lr / 4, betas=(0.5, 0.9)
            )
            self.optimizers.append((judge, settings.lr / 4))
        self.schedule = make_schedule(
            "cosine_decay",
            base_lr=1.0,
            min_lr=0.01,
            max_steps=settings.steps,
            warm_up_steps=min(50, settings.steps // 10),
        )
        self.finished = 0

    def run(
        self, folder: Path, *, save_every: int, until: int, after_step: Callable[[int, dict], None]
    ) -> None:
        """Train to the end; resume from the state in `folder` if there is one.

        Args:
            until: the last step that is made, where that is not the end of the schedule.
            after_step: called with the number of finished steps and the numbers of the last one.
        """
        self.restore(folder)
        last = min(until, self.settings.steps)
        for x in self.batches.between(self.finished, last):
            metrics = self.step(x)
            state.append(folder, {"step": self.finished, **metrics})
            if self.finished % save_every == 0 or self.finished == last:
                state.save(folder, self.state_dict())
            after_step(self.finished, metrics)

    def step(self, x: Tensor) -> dict[str, float]:
        """One update of every network from clips (B, 3, [T,] H, W) in [-1, 1]."""
        rate = self.schedule(self.finished)
        for optimizer, lr in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
            optimizer.zero_grad(set_to_none=True)
        x = x.to(self.device)
        loss, metrics, decoded = self._loss(x)
        loss.backward()
        metrics["grad_norm"] = nn.utils.clip_grad_norm_(self.vae.parameters(), CLIP)
        if self.discriminator is not None:
            self.discriminator.zero_grad(set_to_none=True)
            judged = losses.discriminator_loss(self.discriminator, x, decoded)
            judged.backward()
            metrics["loss/discriminator"] = judged
        for optimizer, _ in self.optimizers:
            optimizer.step()
        self.finished += 1
        self._update_average()
        return {name: float(value.detach()) for name, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; random numbers follow from seed and step."""
        judge = self.discriminator
        return {
            "settings": self.described,
            "step": self.finished,
            "vae": self.vae.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": judge.state_dict() if judge is not None else {},
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
        }

    def restore(self, folder: Path) -> None:
        """Take over the state in a folder, if there is one, and drop later lines of its log."""
        saved = state.load(folder, self.described)
        if saved is not None:
            self.finished = saved["step"]
            self.vae.load_state_dict(saved["vae"])
            self.average.load_state_dict(saved["average"])
            if self.discriminator is not None:
                self.discriminator.load_state_dict(saved["discriminator"])
            for (optimizer, _), own in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(own)
        state.cut(folder, self.finished)

    def _loss(self, x: Tensor) -> tuple[Tensor, dict[str, Any], Tensor]:
        settings = self.settings
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            decoded, moments = losses.reconstruct(self.vae, x, self._noise)
        decoded = decoded.float()  # as the weights of the discriminator, which has no autocast
        distance = losses.distance(decoded, x)
        divergence = losses.divergence(moments)
        loss = distance + settings.kl_weight * divergence
        metrics = {"loss/reconstruction": distance, "loss/kl": divergence}
        if self.discriminator is not None and self.finished >= settings.adversarial_start:
            fooled = losses.generator_loss(self.discriminator, decoded)
            metrics["loss/adversarial"] = fooled
            loss = loss + settings.adversarial_weight * fooled
        metrics["loss"] = loss
        return loss, metrics, decoded

    def _noise(self, like: Tensor) -> Tensor:
        """Noise of this step, the same on every device."""
        generator = torch.Generator().manual_seed(mix(self.settings.seed, "noise", self.finished))
        return torch.randn(like.shape, generator=generator).to(like)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.ema, (1 + self.finished) / (10 + self.finished))
        averages = list(self.average.parameters())
        torch._foreach_lerp_(averages, list(self.vae.parameters()), 1.0 - decay)


def _optimizers(vae: nn.Module, lr: float) -> list[tuple[torch.optim.Optimizer, float]]:
    """Optimizers of an autoencoder with their learning rates."""
    inner, others = split_parameters(vae)
    adam = torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    return [(Muon(inner, lr=lr * MUON_RATE), lr * MUON_RATE), (adam, lr)]
