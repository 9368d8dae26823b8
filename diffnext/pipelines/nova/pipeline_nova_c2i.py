# SPDX-License-Identifier: Apache-2.0
"""NOVAC2IPipeline: pictures from classes."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from operator import index

import torch
from diffusers import ModelMixin, SchedulerMixin
from torch import Tensor

from diffnext.image_processor import check_output_type
from diffnext.models.guidance_scaler import Guidance
from diffnext.pipelines.pipeline_utils import (
    ImagePipelineOutput,
    PipelineMixin,
    check_conditions,
    check_counts,
    check_generator,
    embed,
    sampling_scheduler,
)


class NOVAC2IPipeline(PipelineMixin):
    """Class to picture, with the weights of NOVA.

    Args:
        vae: autoencoder of pictures.
        transformer: the network.
        scheduler: how the values of tokens are denoised.
    """

    model_cpu_offload_seq = "transformer->vae"

    def __init__(self, vae: ModelMixin, transformer: ModelMixin, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, transformer=transformer, scheduler=sampling_scheduler(scheduler)
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: int | Sequence[int],
        num_inference_steps: int = 64,
        num_diffusion_steps: int = 25,
        guidance_scale: float = 5.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        *,
        min_guidance_scale: float | None = None,
        guidance_trunc: float = 0.0,
        guidance_renorm: float = 1.0,
        flow_shift: float | None = None,
        vae_batch_size: int = 1,
        disable_progress_bar: bool = False,
    ) -> ImagePipelineOutput:
        """Sample pictures.

        Args:
            prompt: one class or several, counted from 0.
            num_inference_steps: sets in which the tokens are predicted.
            num_diffusion_steps: denoising steps of each set.
            guidance_scale: strength of guidance by the class; 1 turns it off.
            num_images_per_prompt: samples of each class, which are neighbours in the result.
            generator: source of random numbers; with a list, each sample has its own.
            output_type: "pil", "np" (uint8), "pt" (in [-1, 1]) or "latent" (scaled).
            min_guidance_scale: strength that grows to `guidance_scale` over the sets.
            guidance_trunc: timestep (1000 is noise) below which guidance is off.
            guidance_renorm: least factor by which guided predictions are brought back to the norm
                of those with the class; 1 turns this off.
            flow_shift: shift of the flow schedule in this call; None for the scheduler's own.
            vae_batch_size: samples that are decoded at once.
            disable_progress_bar: show no progress.

        Raises:
            ValueError: a class that does not exist, or arguments that contradict each other.
        """
        check_output_type(output_type)
        check_counts(
            num_inference_steps=num_inference_steps,
            num_diffusion_steps=num_diffusion_steps,
            num_images_per_prompt=num_images_per_prompt,
            vae_batch_size=vae_batch_size,
        )
        guidance = Guidance(
            scale=guidance_scale,
            min_scale=min_guidance_scale,
            trunc=guidance_trunc,
            renorm=guidance_renorm,
        )
        labels = _classes(prompt)
        check_generator(generator, len(labels) * num_images_per_prompt)
        scheduler = self.sampler(shift=flow_shift)
        cond = self._conditions(labels, guidance, repeats=num_images_per_prompt)
        sampled = self.sample_latents(
            scheduler,
            cond,
            num_frames=1,
            num_ar_steps=num_inference_steps,
            num_diffusion_steps=num_diffusion_steps,
            guidance=guidance,
            generator=generator,
            disable_progress_bar=disable_progress_bar,
        )
        return self.make_output(sampled, output_type, vae_batch_size)

    def _conditions(self, labels: list[int], guidance: Guidance, *, repeats: int) -> Tensor:
        """Condition tokens of all samples, pass by pass, (G * B, 1, D)."""
        check_conditions(self.transformer, "label_embed", "NOVAPipeline")
        count = self.transformer.label_embed.num_classes
        wrong = [label for label in labels if not 0 <= label < count]
        if wrong or not labels:
            raise ValueError(f"prompt has classes {wrong}; 0 to {count - 1} are wanted")
        ids = torch.tensor(labels, device=self._execution_device).repeat_interleave(repeats)
        passes = [ids if known else torch.full_like(ids, count) for known in guidance.prompt_passes]
        return embed(self.transformer, labels=torch.cat(passes))


def _classes(prompt: int | Sequence[int]) -> list[int]:
    """Classes as a list; numbers of numpy and torch are as good."""
    try:
        return [index(one) for one in ([prompt] if isinstance(prompt, Integral) else prompt)]
    except TypeError as error:
        raise ValueError(f"prompt is {prompt!r}; a class or a list of classes is wanted") from error
