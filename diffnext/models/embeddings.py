# SPDX-License-Identifier: Apache-2.0
"""What becomes a token, and where it stands: patches, positions, text, labels, motion, masks.

Letters: B batch, C channel, H W latent size, L text length, N token, D width, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TEXT_POSITIONS = 512  # rows of the buffer that stands for absent text
NUM_CLASSES = 1000  # ImageNet


def frequencies(count: int, *, device: torch.device | None = None) -> Tensor:
    """10^4 ** (-i / count) for i < count, (count,) float32.

    Rounded as in the published model, since sampling multiplies a difference in the last bit by up
    to 10^5. The timesteps of the denoiser are rounded in another way there.
    """
    index = torch.arange(count, dtype=torch.float32, device=device)
    return 1 / 1e4 ** (index / count)


def patchify(x: Tensor, patch: int) -> Tensor:
    """Cut (..., C, H, W) into row-major tokens (..., N, patch * patch * C), channel fastest."""
    x = x.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # (..., C, h, p, w, p)
    x = x.movedim(-5, -1).transpose(-4, -3)  # (..., h, w, p, p, C)
    return x.flatten(-3).flatten(-3, -2)


def unpatchify(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Inverse of `patchify`: (..., N, patch * patch * C) to (..., C, height, width)."""
    grid = (height // patch, width // patch)
    x = tokens.unflatten(-2, grid).unflatten(-1, (patch, patch, -1))  # (..., h, w, p, p, C)
    x = x.transpose(-4, -3).movedim(-1, -5)  # (..., C, h, p, w, p)
    return x.flatten(-2).flatten(-3, -2)


class PatchProjection(nn.Conv2d):
    """A convolution whose stride is its kernel, applied to patches that are already cut out."""

    def forward(self, patches: Tensor) -> Tensor:
        """(..., patch * patch * C) in the order of `patchify` to (..., D)."""
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches.to(weight.dtype), weight, self.bias)


class PatchEmbed(nn.Module):
    """Patches to tokens."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = PatchProjection(channels, dim, patch, stride=patch)

    def forward(self, patches: Tensor) -> Tensor:
        """(..., patch * patch * C) to (..., D)."""
        return self.proj(patches)


def space_positions(grid: tuple[int, int], dim: int, device: torch.device) -> Tensor:
    """Sines and cosines of integer grid positions, (h * w, dim) as [sin w, cos w, sin h, cos h]."""
    freqs = frequencies(dim // 4, device=device)
    angles = [torch.arange(size, device=device).unsqueeze(1) * freqs for size in grid]
    rows = torch.cat([angles[0].sin(), angles[0].cos()], dim=1)  # (h, dim / 2)
    columns = torch.cat([angles[1].sin(), angles[1].cos()], dim=1)  # (w, dim / 2)
    rows = rows.unsqueeze(1).expand(*grid, -1)
    columns = columns.unsqueeze(0).expand(*grid, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1)


class TimePosEmbed(nn.Module):
    """Position of a frame in a clip, learned from sines and cosines.

    Args:
        dim: width of the token.
        base_frames: latent frames of the clips that the model was made for; the position of a
            clip of another length is scaled to span as much.
    """

    def __init__(self, dim: int, base_frames: int) -> None:
        super().__init__()
        self.base_frames = base_frames
        self.time_proj = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """(n,) frame numbers of a clip of `num_frames` to (n, D)."""
        t = frames.float() * (self.base_frames / num_frames)
        return self.norm(self.time_proj(sin_cos(t).to(self.time_proj[0].weight.dtype)))


def sin_cos(values: Tensor) -> Tensor:
    """Sines, then cosines of values at 128 frequencies, (..., 256)."""
    angles = values.float().unsqueeze(-1) * frequencies(128, device=values.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Rotary(NamedTuple):
    """Rotation of each token's adjacent pairs; both (N, d / 2) or (B, 1, N, d / 2) float32."""

    cos: Tensor
    sin: Tensor


def rotary_positions(positions: Tensor, head_dim: int) -> Rotary:
    """Rotations by angles position * 10^4 ** (-2 i / share), arXiv:2104.09864, over (t, h, w).

    Args:
        positions: (N, 3) integer (t, h, w).
        head_dim: divided as d/8 for t and half of the rest each for h and w.
    """
    time_dim = head_dim // 8
    space_dim = (head_dim - time_dim) // 2
    if time_dim % 2 or space_dim % 2 or time_dim + 2 * space_dim != head_dim:
        raise ValueError(f"rotary positions need heads of a multiple of 16, found width {head_dim}")
    shares = (time_dim, space_dim, space_dim)
    angles = [
        positions[:, axis, None].float() * frequencies(share // 2, device=positions.device)
        for axis, share in enumerate(shares)
    ]
    angle = torch.cat(angles, dim=1)  # (N, d / 2)
    return Rotary(angle.cos(), angle.sin())


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn the adjacent pairs of x (..., B, heads, N, d)."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # fuses real numbers, has no kernels for complex ones
        even, odd = pairs.unbind(-1)
        cos, sin = rotary
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(*rotary))
    return turned.flatten(-2).to(x.dtype)


def grid_positions(frames: Tensor, grid: tuple[int, int]) -> Tensor:
    """(t, h, w) of all tokens of frames (n,), row-major: (n * h * w, 3)."""
    rows = torch.arange(grid[0], device=frames.device)
    columns = torch.arange(grid[1], device=frames.device)
    return torch.cartesian_prod(frames, rows, columns)


class TextEmbed(nn.Module):
    """Text states to condition tokens; what a prompt leaves empty is filled from a buffer.

    Args:
        token_dim: width of the text encoder.
        dim: width of the tokens.
        num_tokens: condition tokens of a prompt.
    """

    def __init__(self, token_dim: int, dim: int, num_tokens: int) -> None:
        super().__init__()
        if num_tokens > TEXT_POSITIONS:
            raise ValueError(
                f"text_token_len is {num_tokens}; at most {TEXT_POSITIONS} are possible"
            )
        self.num_tokens = num_tokens
        self.register_buffer("weight", 0.02 * torch.randn(TEXT_POSITIONS, token_dim))
        self.proj = nn.Linear(token_dim, dim)
        self.norm = nn.LayerNorm(dim)

    def pad(self, prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Stack states (L_i, token_dim) to (B, L, token_dim) and lengths (B,); longer ones are cut."""
        width, device = self.weight.size(1), self.weight.device
        text, length = self._room(prompts)
        for i, states in enumerate(prompts):
            if states.dim() != 2 or states.size(1) != width:
                found = tuple(states.shape)
                raise ValueError(
                    f"prompt {i} has states of shape {found}, wanted (length, {width})"
                )
            states = states[: self.num_tokens]
            # a copy towards the host has to be waited for
            text[i, : len(states)] = states.to(text, non_blocking=states.device.type == "cpu")
            length[i] = len(states)
        text = text.to(device, non_blocking=True).to(self.weight.dtype)
        return text, length.to(device, non_blocking=True)

    def _room(self, prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Zeros for padded states and their lengths, where they can be filled without waiting.

        States of the host are put together there, in memory that a GPU copies from by itself.
        """
        shape = (len(prompts), self.num_tokens, self.weight.size(1))
        pinned = self.weight.is_cuda
        length = torch.zeros(len(prompts), dtype=torch.int64, pin_memory=pinned)
        if any(states.device.type != "cpu" for states in prompts):
            return self.weight.new_zeros(shape), length
        dtypes = {states.dtype for states in prompts}
        dtype = dtypes.pop() if len(dtypes) == 1 else self.weight.dtype
        return torch.zeros(shape, dtype=dtype, pin_memory=pinned), length

    def forward(self, text: Tensor | Sequence[Tensor], length: Tensor | None = None) -> Tensor:
        """Condition tokens (B, L, D) of padded states and their lengths, or of unpadded states."""
        if length is None:
            text, length = self.pad(text)
        absent = torch.arange(text.size(1), device=text.device) >= length.unsqueeze(1)  # (B, L)
        fill = self.weight[: text.size(1)]
        return self.norm(self.proj(torch.where(absent.unsqueeze(-1), fill, text.to(fill.dtype))))


class LabelEmbed(nn.Module):
    """A class to one condition token. The row after the last class stands for no class."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(0.02 * torch.randn(num_classes + 1, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, labels: Tensor) -> Tensor:
        """(B,) int64 to (B, 1, D)."""
        return self.norm(F.embedding(labels, self.weight)).unsqueeze(1)


class MotionEmbed(nn.Module):
    """Motion score and frame rate to one condition token each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.flow_proj = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.fps_proj = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, flow: Tensor, fps: Tensor) -> Tensor:
        """(B,) motion scores and (B,) frames a second to (B, 2, D)."""
        dtype = self.flow_proj[0].weight.dtype
        flow_token = self.flow_proj(sin_cos(flow).to(dtype))
        fps_token = self.fps_proj(sin_cos(fps).to(dtype))
        return torch.stack([flow_token, fps_token], dim=1)


class MaskEmbed(nn.Module):
    """The token before the first frame, and the token of what is not known yet; both (1, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bos_token = nn.Parameter(0.02 * torch.randn(1, dim))
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, dim))
