# SPDX-License-Identifier: Apache-2.0
"""NOVAPipeline: pictures and videos from prompts, videos from a prompt and a picture.

B samples, C latent channel, T latent frame, H W latent size, L text length, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import ModelMixin, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffnext.image_processor import VaeImageProcessor, check_output_type
from diffnext.models.autoencoders.latent_scale import sample_moments
from diffnext.models.autoencoders.modeling_utils import strides
from diffnext.models.guidance_scaler import Guidance
from diffnext.pipelines.nova.prompts import Prompt, encode_prompts
from diffnext.pipelines.pipeline_utils import (
    ImagePipelineOutput,
    PipelineMixin,
    VideoPipelineOutput,
    check_conditions,
    check_counts,
    check_generator,
    embed,
    sampling_scheduler,
)

FPS = 12.0  # frames a second that video models are conditioned on


class NOVAPipeline(PipelineMixin):
    """Text to picture, text to video and picture to video, with the weights of NOVA.

    Args:
        vae: autoencoder of pictures or videos.
        transformer: the network.
        scheduler: how the values of tokens are denoised.
        text_encoder, tokenizer: encode prompts; both may be None where prompts are embeddings.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer"]

    def __init__(
        self,
        vae: ModelMixin,
        transformer: ModelMixin,
        scheduler: SchedulerMixin,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            transformer=transformer,
            scheduler=sampling_scheduler(scheduler),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[Prompt] | None = None,
        num_inference_steps: int = 64,
        num_diffusion_steps: int = 25,
        max_latent_length: int = 1,
        guidance_scale: float = 5.0,
        motion_flow: float | Sequence[float] = 5.0,
        negative_prompt: str | Sequence[Prompt] | None = None,
        image: Image.Image | np.ndarray | Sequence[Image.Image | np.ndarray] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | Sequence[Tensor] | None = None,
        output_type: str = "pil",
        *,
        prompt_embeds: Tensor | Sequence[np.ndarray | Tensor] | None = None,
        min_guidance_scale: float | None = None,
        guidance_trunc: float = 0.0,
        guidance_renorm: float = 1.0,
        image_guidance_scale: float = 0.0,
        spatiotemporal_guidance_scale: float = 0.0,
        flow_shift: float | None = None,
        vae_batch_size: int = 1,
        disable_progress_bar: bool = False,
    ) -> ImagePipelineOutput | VideoPipelineOutput:
        """Sample pictures or videos.

        Args:
            prompt: one text or several; embeddings (L, D) may stand among them.
            num_inference_steps: sets in which the tokens of a frame are predicted.
            num_diffusion_steps: denoising steps of each set.
            max_latent_length: latent frames T; 1 makes a picture. With the autoencoder of Open-Sora
                Plan T latent frames are 4 T - 3 frames.
            guidance_scale: strength of guidance by the prompt; 1 turns it off.
            motion_flow: how much moves, in the unit of the scores `flow` that were trained on; one
                number, or one a prompt.
            negative_prompt: what to stay away from; one, or one a prompt. None for no prompt.
            image: the first frame of each video; one, or one a prompt.
            num_images_per_prompt: samples of each prompt, which are neighbours in the result.
            generator: source of random numbers; with a list, each sample has its own and does not
                depend on those beside it.
            latents: first frames (B, C, H, W), scaled, or a tensor (B, C, t, H, W) of these.
            output_type: "pil", "np" (uint8), "pt" (in [-1, 1]) or "latent" (scaled).
            prompt_embeds: in place of `prompt`: (B, L, D), or a sequence of (L_i, D).
            min_guidance_scale: strength that grows to `guidance_scale` over the sets.
            guidance_trunc: timestep (1000 is noise) below which guidance is off.
            guidance_renorm: least factor by which guided predictions are brought back to the norm
                of those with the prompt; 1 turns this off.
            image_guidance_scale: strength of guidance by the frames before; 0 turns it off.
            spatiotemporal_guidance_scale: strength of guidance by a perturbed pass; 0 is off.
            flow_shift: shift of the flow schedule in this call; None for the scheduler's own.
            vae_batch_size: samples that are decoded at once.
            disable_progress_bar: show no progress.

        Returns:
            Pictures in `images`, or videos in `frames`.

        Raises:
            ValueError: arguments that contradict each other or the model.
        """
        check_output_type(output_type)
        check_counts(
            num_inference_steps=num_inference_steps,
            num_diffusion_steps=num_diffusion_steps,
            max_latent_length=max_latent_length,
            num_images_per_prompt=num_images_per_prompt,
            vae_batch_size=vae_batch_size,
        )
        guidance = Guidance(
            scale=guidance_scale,
            min_scale=min_guidance_scale,
            trunc=guidance_trunc,
            renorm=guidance_renorm,
            image_scale=image_guidance_scale,
            stg_scale=spatiotemporal_guidance_scale,
        )
        prompts = _prompt_list(prompt, prompt_embeds)
        batch = len(prompts) * num_images_per_prompt
        check_generator(generator, batch)
        scheduler = self.sampler(shift=flow_shift)
        cond = self._conditions(
            prompts, negative_prompt, motion_flow, guidance, repeats=num_images_per_prompt
        )
        given = self._given_frames(image, latents, batch, generator, most=max_latent_length)
        sampled = self.sample_latents(
            scheduler,
            cond,
            num_frames=max_latent_length,
            num_ar_steps=num_inference_steps,
            num_diffusion_steps=num_diffusion_steps,
            guidance=guidance,
            generator=generator,
            latents=given,
            disable_progress_bar=disable_progress_bar,
        )
        return self.make_output(sampled, output_type, vae_batch_size)

    def _conditions(
        self,
        prompts: Sequence[Prompt],
        negative_prompt: str | Sequence[Prompt] | None,
        motion_flow: float | Sequence[float],
        guidance: Guidance,
        *,
        repeats: int,
    ) -> Tensor:
        """Condition tokens of all samples, pass by pass, (G * B, L, D)."""
        net, device, passes = self.transformer, self._execution_device, guidance.prompt_passes
        check_conditions(net, "text_embed", "NOVAC2IPipeline")
        states = self._encode(prompts)
        nothing = states[0].new_zeros(0, states[0].shape[1])
        negative = [nothing] * len(prompts)
        if negative_prompt is not None and guidance.num_passes > 1:
            negative = self._encode(
                _one_each(
                    "negative_prompt", negative_prompt, (str, np.ndarray, Tensor), len(prompts)
                )
            )
        texts = []
        for has_prompt in passes:
            for one in states if has_prompt else negative:
                texts.extend([one] * repeats)
        text, length = net.text_embed.pad(texts)
        cond = {"text": text.to(device), "text_length": length.to(device)}
        if net.has_motion:
            flow = _one_each("motion_flow", motion_flow, Real, len(prompts))
            flow = torch.tensor(flow, dtype=torch.float32, device=device)
            cond["flow"] = flow.repeat_interleave(repeats).repeat(len(passes))
            cond["fps"] = torch.full_like(cond["flow"], FPS)
        return embed(net, **cond)

    def _encode(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        return encode_prompts(
            self.tokenizer,
            self.text_encoder,
            prompts,
            self.transformer.text_embed.num_tokens,
            device=self._execution_device,
            full_length=True,
        )

    def _given_frames(
        self,
        image: Image.Image | np.ndarray | Sequence[Image.Image | np.ndarray] | None,
        latents: Tensor | Sequence[Tensor] | None,
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None,
        *,
        most: int,
    ) -> list[Tensor]:
        """Frames that are not sampled: that of a picture, then those of `latents`."""
        frames = []
        if image is not None:
            frames.append(self._encode_image(image, batch, generator))
        if isinstance(latents, Tensor):
            latents = latents.unbind(2) if latents.dim() == 5 else [latents]
        shape = (batch, self.transformer.config.image_dim, *self.transformer.latent_size)
        for i, frame in enumerate(() if latents is None else latents):
            if tuple(frame.shape) != shape:
                raise ValueError(f"latents {i} have shape {tuple(frame.shape)}; {shape} is wanted")
            frames.append(frame)
        if len(frames) > most:
            raise ValueError(
                f"max_latent_length is {most}, but image and latents give {len(frames)} frames"
            )
        return frames

    def _encode_image(
        self,
        image: Image.Image | np.ndarray | Sequence[Image.Image | np.ndarray],
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> Tensor:
        """Draw scaled latents (B, C, H, W) of one picture, or of one for each prompt."""
        height, width = self.transformer.latent_size
        stride = strides(self.vae)[1]
        pixels = VaeImageProcessor().preprocess(image, size=(height * stride, width * stride))
        if batch % len(pixels):
            raise ValueError(f"{len(pixels)} images are given for {batch} samples; pass one each")
        pixels = pixels.to(self._execution_device, self.vae.dtype)
        moments = self.vae.encode(pixels).latent_dist.parameters.float()
        moments = moments.repeat_interleave(batch // len(pixels), dim=0)
        noise = randn_tensor(
            (batch, moments.shape[1] // 2, *moments.shape[2:]),
            generator=generator,
            device=moments.device,
        )
        return self.vae.scale_(sample_moments(moments, noise))


def _prompt_list(
    prompt: str | Sequence[Prompt] | None,
    prompt_embeds: Tensor | Sequence[np.ndarray | Tensor] | None,
) -> list[Prompt]:
    if (prompt is None) == (prompt_embeds is None):
        raise ValueError("pass one of prompt and prompt_embeds")
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, Integral):
        raise ValueError(f"prompt is {prompt!r}; a text, or several, is wanted")
    prompts = list(prompt if prompt_embeds is None else prompt_embeds)
    if not prompts:
        raise ValueError("prompt is empty; pass one text at least")
    return prompts


def _one_each(name: str, value: Any, single: type | tuple[type, ...], count: int) -> list[Any]:
    """`value` once for each prompt, where it is `single`, or as many values as there are prompts."""
    values = [value] * count if isinstance(value, single) else list(value)
    if len(values) != count:
        raise ValueError(
            f"{name} has {len(values)} entries for {count} prompts; pass one or {count}"
        )
    return values
