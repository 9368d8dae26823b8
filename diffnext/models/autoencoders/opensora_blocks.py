# SPDX-License-Identifier: Apache-2.0
"""Layers of the Open-Sora Plan 1.2 autoencoder: pictures first, then videos by causal convolutions.

B batch, C channel, T frame, H W size. Two-dimensional layers see frames as separate pictures,
three-dimensional ones see the past as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.models.activations import get_activation
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

EPS = 1e-6


class CausalConv3d(nn.Conv3d):
    """A convolution that sees no later frame: the first frame is repeated before the beginning."""

    def forward(self, x: Tensor) -> Tensor:
        past = self.kernel_size[0] - 1
        if past > 0:
            x = torch.cat([x[:, :, :1].expand(-1, -1, past, -1, -1), x], dim=2)
        return super().forward(x)


def causal_conv(
    in_channels: int, out_channels: int, kernel: int = 3, *, time_kernel: int | None = None
) -> nn.Module:
    """A causal convolution that keeps the height and the width."""
    size = (kernel if time_kernel is None else time_kernel, kernel, kernel)
    return CausalConv3d(in_channels, out_channels, size, padding=(0, kernel // 2, kernel // 2))


def per_frame(layer: nn.Module, x: Tensor, *args: object) -> Tensor:
    """Apply a layer of pictures to each frame of (B, C, T, H, W)."""
    batch, _, frames = x.shape[:3]
    x = layer(x.transpose(1, 2).flatten(0, 1), *args)  # (B * T, C', H', W')
    return x.unflatten(0, (batch, frames)).transpose(1, 2)


class ResnetBlock3D(nn.Module):
    """Norm, activation and causal convolution twice, with a residual."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int, act_fn: str) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=EPS)
        self.conv1 = causal_conv(in_channels, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=EPS)
        self.conv2 = causal_conv(out_channels, out_channels)
        self.act = get_activation(act_fn)
        self.conv_shortcut = None
        if in_channels != out_channels:
            self.conv_shortcut = causal_conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.act(self.norm1(x)))
        h = self.conv2(self.act(self.norm2(h)))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return x + h


class Downsample3D(nn.Module):
    """Halves the size; of T frames keeps (T + 1) // 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample3D(nn.Module):
    """Doubles the size, and where `in_time` makes 2 T - 1 frames of T."""

    def __init__(self, channels: int, *, in_time: bool) -> None:
        super().__init__()
        self.in_time = in_time
        self.conv = causal_conv(channels, channels, time_kernel=3 if in_time else 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.in_time:
            return self.conv(F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))
        first = F.interpolate(x[:, :, :1], scale_factor=(1, 2, 2), mode="trilinear")
        if x.shape[2] == 1:
            return self.conv(first)
        rest = F.interpolate(x[:, :, 1:], scale_factor=(2, 2, 2), mode="trilinear")
        return self.conv(torch.cat([first, rest], dim=2))


class DownBlock(nn.Module):
    """Residual blocks and a downsampler, each of pictures or of videos; the sampler may lack."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        layers: int,
        *,
        video: bool,
        down: str,
        groups: int,
        act_fn: str,
    ) -> None:
        super().__init__()
        self.video = video
        self.resnets = nn.ModuleList()
        for i in range(layers):
            channels = in_channels if i == 0 else out_channels
            self.resnets.append(
                _resnet(channels, out_channels, video=video, groups=groups, act_fn=act_fn)
            )
        self.downsamplers = None
        if down == "video":
            self.downsamplers = nn.ModuleList([Downsample3D(out_channels)])
        if down == "picture":
            self.downsamplers = nn.ModuleList(
                [Downsample2D(out_channels, use_conv=True, padding=0, name="op")]
            )

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x) if self.video else per_frame(resnet, x, None)
        for sampler in self.downsamplers or ():
            x = sampler(x) if isinstance(sampler, Downsample3D) else per_frame(sampler, x)
        return x


class UpBlock(nn.Module):
    """Residual blocks of videos, then an upsampler or none."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, *, up: str, groups: int, act_fn: str
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList()
        for i in range(layers):
            channels = in_channels if i == 0 else out_channels
            self.resnets.append(ResnetBlock3D(channels, out_channels, groups=groups, act_fn=act_fn))
        self.upsamplers = None
        if up:
            self.upsamplers = nn.ModuleList([Upsample3D(out_channels, in_time=up == "video")])

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*self.resnets, *(self.upsamplers or ())]:
            x = layer(x)
        return x


class FrameAttention(nn.Module):
    """Attention of one head inside each frame, with a residual; the norm sees all frames."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).permute(0, 2, 3, 4, 1).flatten(2, 3)  # (B, T, H * W, C)
        q, k, v = self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)
        tokens = self.to_out[0](F.scaled_dot_product_attention(q, k, v))
        return x + tokens.unflatten(2, x.shape[3:]).permute(0, 4, 1, 2, 3)


class MidBlock(nn.Module):
    """Attention inside each frame between two residual blocks."""

    def __init__(self, channels: int, *, groups: int, act_fn: str) -> None:
        super().__init__()
        first = ResnetBlock3D(channels, channels, groups=groups, act_fn=act_fn)
        last = ResnetBlock3D(channels, channels, groups=groups, act_fn=act_fn)
        self.resnets = nn.ModuleList([first, last])
        self.attentions = nn.ModuleList([FrameAttention(channels, groups=groups)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.attentions[0](self.resnets[0](x))
        return self.resnets[1](x)


def _resnet(
    in_channels: int, out_channels: int, *, video: bool, groups: int, act_fn: str
) -> nn.Module:
    if video:
        return ResnetBlock3D(in_channels, out_channels, groups=groups, act_fn=act_fn)
    return ResnetBlock2D(
        in_channels=in_channels,
        out_channels=out_channels,
        temb_channels=None,
        groups=groups,
        eps=EPS,
        non_linearity=act_fn,
    )


class Encoder(nn.Module):
    """Videos (B, 3, T, H, W) to features (B, 2C, t, h, w)."""

    def __init__(
        self,
        in_channels: int,
        moments: int,
        widths: Sequence[int],
        layers: int,
        video: Sequence[bool],
        groups: int,
        act_fn: str,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            down = ""
            if i + 1 < len(widths):
                down = (
                    "video" if video[i + 1] else "picture"
                )  # the sampler belongs to the block it feeds
            before = widths[max(i - 1, 0)]
            block = DownBlock(
                before, width, layers, video=video[i], down=down, groups=groups, act_fn=act_fn
            )
            self.down_blocks.append(block)
        self.mid_block = MidBlock(widths[-1], groups=groups, act_fn=act_fn)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_act = get_activation(act_fn)
        self.conv_out = causal_conv(widths[-1], moments)

    def forward(self, x: Tensor) -> Tensor:
        x = per_frame(self.conv_in, x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """Latents (B, C, t, h, w) to videos (B, 3, T, H, W)."""

    def __init__(
        self,
        latent_channels: int,
        out_channels: int,
        widths: Sequence[int],
        layers: int,
        time_doublings: int,
        groups: int,
        act_fn: str,
    ) -> None:
        super().__init__()
        widths = list(reversed(widths))
        self.conv_in = causal_conv(latent_channels, widths[0])
        self.mid_block = MidBlock(widths[0], groups=groups, act_fn=act_fn)
        self.up_blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            up = ""
            if i + 1 < len(widths):
                up = "video" if i < time_doublings else "picture"
            before = widths[max(i - 1, 0)]
            self.up_blocks.append(
                UpBlock(before, width, layers + 1, up=up, groups=groups, act_fn=act_fn)
            )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_act = get_activation(act_fn)
        self.conv_out = causal_conv(widths[-1], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))
