# SPDX-License-Identifier: Apache-2.0
"""NOVA's forward: frames one after another, tokens of a frame in sets, values of a token by diffusion.

arXiv:2412.14169. The network knows neither scheduler nor loss.

Letters: B batch, C channel, T frame, H W latent size, L condition tokens of a sample, D width,
M tokens of a frame for the video encoder, N for the image encoder, V of these visible, K masked,
P values of a patch, R repeats.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffnext.models.attention import KVCache
from diffnext.models.diffusion_mlp import DiffusionMLP
from diffnext.models.embeddings import (
    LabelEmbed,
    MaskEmbed,
    MotionEmbed,
    Rotary,
    TextEmbed,
    TimePosEmbed,
    grid_positions,
    patchify,
    rotary_positions,
    space_positions,
    unpatchify,
)
from diffnext.models.vision_transformer import VisionTransformer


def select(tokens: Tensor, ids: Tensor) -> Tensor:
    """tokens (B, N, D) or (1, N, D) at ids (B, K): (B, K, D)."""
    tokens = tokens.expand(len(ids), -1, -1)
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.size(-1)))


class Transformer3D(nn.Module):
    """Temporal encoder, spatial encoder and token-wise denoiser, put together.

    Args:
        video_encoder, image_encoder, image_decoder: the three networks.
        base_frames: latent frames of the clips that the model was made for.
        rotary: rotary positions instead of absolute ones.
        text_embed, label_embed: one of the two.
        has_motion: whether motion score and frame rate are conditions.
    """

    def __init__(
        self,
        video_encoder: VisionTransformer,
        image_encoder: VisionTransformer,
        image_decoder: DiffusionMLP,
        *,
        base_frames: int,
        rotary: bool,
        text_embed: TextEmbed | None = None,
        label_embed: LabelEmbed | None = None,
        has_motion: bool = False,
    ) -> None:
        super().__init__()
        dim = image_encoder.dim
        self.video_encoder = video_encoder
        self.image_encoder = image_encoder
        self.image_decoder = image_decoder
        self.mask_embed = MaskEmbed(dim)
        if text_embed is not None:
            self.text_embed = text_embed
        if label_embed is not None:
            self.label_embed = label_embed
        if has_motion:
            self.motion_embed = MotionEmbed(dim)
        if not rotary:
            self.video_pos_embed = TimePosEmbed(dim, base_frames)
        self.has_motion = has_motion
        self.has_rotary = rotary

    def set_checkpointing(self, level: int) -> None:
        """Keep less of the forward for backward.

        Args:
            level: 0 keep all; 1 compute the video encoder's MLPs again; 2 also the image encoder's;
                3 also the blocks of the decoder.
        """
        if level not in range(4):
            raise ValueError(f"checkpointing level is {level}, wanted 0, 1, 2 or 3")
        self.video_encoder.set_checkpointing(level >= 1)
        self.image_encoder.set_checkpointing(level >= 2)
        self.image_decoder.set_checkpointing(level >= 3)

    def patchify(self, latents: Tensor) -> Tensor:
        """(..., C, H, W) to tokens of the image encoder in patch space, (..., N, P)."""
        return patchify(latents, self.image_encoder.patch_embed.patch)

    def unpatchify(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(..., N, P) to latents (..., C, height, width)."""
        return unpatchify(tokens, self.image_encoder.patch_embed.patch, height, width)

    def embed(
        self,
        *,
        text: Tensor | None = None,
        text_length: Tensor | None = None,
        labels: Tensor | None = None,
        flow: Tensor | None = None,
        fps: Tensor | None = None,
    ) -> Tensor:
        """Condition tokens of a batch, (B, L, D).

        Args:
            text: (B, L, width of the text encoder) states, padded; see `TextEmbed.pad`.
            text_length: (B,) states that belong to the prompt; 0 for no prompt.
            labels: (B,) classes, for a model of classes.
            flow, fps: (B,) motion scores and frame rates, for a model of videos.
        """
        if labels is not None:
            return self.label_embed(labels)
        cond = self.text_embed(text, text_length)
        if flow is None:
            return cond
        return torch.cat([cond, self.motion_embed(flow, fps).to(cond.dtype)], dim=1)

    def forward(
        self,
        latents: Tensor,
        cond: Mapping[str, Tensor],
        *,
        visible_ids: Tensor,
        masked_ids: Tensor,
        noisy: Tensor,
        timestep: Tensor,
    ) -> Tensor:
        """Predict the noise or velocity of the masked tokens.

        Args:
            latents: (B, C, T, H, W) without noise.
            cond: keyword arguments of `embed`.
            visible_ids: (B * T, V) tokens of each frame that the image encoder sees.
            masked_ids: (B * T, K) the other tokens.
            noisy: (R, B * T, K, P) masked tokens with noise.
            timestep: (R, B * T, K) of the noise, 0 to 1000.

        Returns:
            (R, B * T, K, P).
        """
        frames = latents.transpose(1, 2).flatten(0, 1)  # (B * T, C, H, W)
        video = self.encode_video(latents, self.embed(**cond))
        z = self.encode_image(self.patchify(frames), video, visible_ids, frames.shape[-2:])
        return self.image_decoder(noisy, timestep, select(z, masked_ids))

    def encode_video(self, latents: Tensor, cond: Tensor) -> Tensor:
        """Condition of each frame from the frames before it.

        Args:
            latents: (B, C, T, H, W).
            cond: (B, L, D).

        Returns:
            (B * T, M, D).
        """
        num_frames, size = latents.size(2), latents.shape[-2:]
        tokens = self.first_tokens(len(latents), size)  # (B, M, D)
        if num_frames > 1:
            previous = self.video_tokens(latents[:, :, :-1]).to(tokens.dtype)
            tokens = torch.cat([tokens, previous], dim=1)
        frame_ids = torch.arange(num_frames, device=latents.device)
        tokens = self.encode_frames(tokens, frame_ids, num_frames, size, cond=cond)
        tokens = tokens.unflatten(1, (num_frames, -1))  # (B, T, M, D)
        if num_frames > 1:
            mixed = self.mix(tokens[:, :1], tokens[:, 1:])
            tokens = torch.cat([tokens[:, :1], mixed], dim=1)
        return tokens.flatten(0, 1)

    def first_tokens(self, batch: int, size: tuple[int, int]) -> Tensor:
        """What stands for the frame before the first, (batch, M, D)."""
        patch = self.video_encoder.patch_embed.patch
        count = (size[0] // patch) * (size[1] // patch)
        return self.mask_embed.bos_token.expand(batch, count, -1)

    def video_tokens(self, latents: Tensor) -> Tensor:
        """Frames (B, C, T, H, W) as tokens of the video encoder, (B, T * M, D)."""
        embed = self.video_encoder.patch_embed
        patches = patchify(latents.transpose(1, 2), embed.patch)  # (B, T, M, 4 P)
        return embed(patches).flatten(1, 2)

    def mix(self, first: Tensor, later: Tensor) -> Tensor:
        """Condition of later frames: the first frame's output, modulated; (B, ..., D) each."""
        if not self.video_encoder.has_mixer:
            return later
        return self.video_encoder.mixer(first, F.silu(later))[0]

    def encode_frames(
        self,
        tokens: Tensor,
        frame_ids: Tensor,
        num_frames: int,
        size: tuple[int, int],
        *,
        cond: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Video encoder over frames in order; a frame sees the condition, itself and earlier frames.

        Args:
            tokens: (B, n * M, D) of n frames.
            frame_ids: (n,) their numbers.
            num_frames: frames of the whole clip.
            size: (H, W).
            cond: (B, L, D), given with the first frame.
            cache: what was seen of earlier frames; extended.

        Returns:
            (B, n * M, D).
        """
        patch = self.video_encoder.patch_embed.patch
        grid = (size[0] // patch, size[1] // patch)
        x, rotary = self._placed_frames(tokens, frame_ids, num_frames, grid)
        prefix = 0 if cond is None else cond.size(1)
        if cond is not None:
            x = torch.cat([cond.to(x.dtype), x], dim=1)
        if rotary is not None:
            rotary = _behind_prefix(rotary, prefix)
        blocks = None
        if len(frame_ids) > 1:
            frame = grid[0] * grid[1]
            blocks = [prefix + frame] + [frame] * (len(frame_ids) - 1)
        x = self.video_encoder.run(x, rotary=rotary, blocks=blocks, cache=cache, skip=prefix)
        return self.video_encoder.norm(x)

    def _placed_frames(
        self, tokens: Tensor, frame_ids: Tensor, num_frames: int, grid: tuple[int, int]
    ) -> tuple[Tensor, Rotary | None]:
        if self.has_rotary:
            positions = grid_positions(frame_ids, grid)
            return tokens, rotary_positions(positions, self.video_encoder.head_dim)
        space = space_positions(grid, self.video_encoder.dim, tokens.device)  # (M, D)
        time = self.video_pos_embed(frame_ids, num_frames).to(tokens.dtype)  # (n, D)
        placed = tokens.unflatten(1, (len(frame_ids), -1)) + time.unsqueeze(1)  # (B, n, M, D)
        return (placed + space.to(tokens.dtype)).flatten(1, 2), None

    def encode_image(
        self, patches: Tensor, cond: Tensor, visible_ids: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Image encoder: all tokens of a frame, told from those that are visible.

        The first half of the blocks reads the condition and the visible tokens, the second half the
        condition and all tokens.

        Args:
            patches: (B, N, P), of which only the visible ones are read.
            cond: (B, M, D).
            visible_ids: (B, V).
            size: (H, W).

        Returns:
            (B, N, D).
        """
        encoder, prefix = self.image_encoder, cond.size(1)
        places = visible_ids.unsqueeze(-1).expand(-1, -1, encoder.dim)
        visible = encoder.patch_embed(select(patches, visible_ids))
        masked = self.mask_embed.mask_token.to(visible.dtype).expand(*patches.shape[:2], -1)
        tokens, rotary = self._placed_tokens(masked.scatter(1, places, visible), size)
        near = None
        if rotary is not None:
            near = _behind_prefix(
                Rotary(*[part[visible_ids].unsqueeze(1) for part in rotary]), prefix
            )
            rotary = _behind_prefix(rotary, prefix)
        half = len(encoder.blocks) // 2
        x = torch.cat([cond.to(tokens.dtype), tokens.gather(1, places)], dim=1)
        x = encoder.run(x, stop=half, rotary=near)
        tokens = tokens.to(x.dtype).scatter(1, places, x[:, prefix:])
        x = torch.cat([x[:, :prefix], tokens], dim=1)
        return encoder.norm(encoder.run(x, start=half, rotary=rotary, skip=prefix))

    def _placed_tokens(self, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, Rotary | None]:
        encoder, device = self.image_encoder, tokens.device
        grid = (size[0] // encoder.patch_embed.patch, size[1] // encoder.patch_embed.patch)
        if not self.has_rotary:
            return tokens + space_positions(grid, encoder.dim, device).to(tokens.dtype), None
        positions = grid_positions(torch.zeros(1, dtype=torch.int64, device=device), grid)
        return tokens, rotary_positions(positions, encoder.head_dim)


def _behind_prefix(rotary: Rotary, prefix: int) -> Rotary:
    """Put `prefix` tokens that are not turned before the others."""
    shape = (*rotary.cos.shape[:-2], prefix, rotary.cos.size(-1))
    cos = torch.cat([rotary.cos.new_ones(shape), rotary.cos], dim=-2)
    sin = torch.cat([rotary.sin.new_zeros(shape), rotary.sin], dim=-2)
    return Rotary(cos, sin)
