# SPDX-License-Identifier: Apache-2.0
"""Where training begins: fresh weights that already carry the colours of each block of pixels.

Drawn at random, these deep and narrow networks spend thousands of steps on a plateau where latents tell
light from dark alone. Here the residual branches start at zero, samplers average or repeat, and the
first channels are the colours themselves, so that what is left to learn is the shape of edges.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Conv = nn.Conv2d | nn.Conv3d
REFERENCE = (
    2.0  # value of two constant channels, against which normalisation leaves colours readable
)


@torch.no_grad()
def start_linear(vae: nn.Module, *, logvar: float = -5.0) -> None:
    """Change the weights of a fresh autoencoder in place.

    Args:
        logvar: of the posterior at the start; narrow, so that noise does not hide the signal.
    """
    for name, module in vae.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            _start_convolution(name, module)
        elif isinstance(module, nn.Linear) and "to_out" in name:
            module.weight.zero_()
            module.bias.zero_()
    colours = vae.encoder.conv_in.in_channels
    _pass(vae.encoder.conv_in, colours)
    _hold_reference(vae.encoder.conv_in, colours)
    _pass(vae.encoder.conv_out, colours, gain=2.0)  # SiLU halves small values
    _pass(vae.decoder.conv_in, colours)
    _hold_reference(vae.decoder.conv_in, colours)
    _pass(vae.decoder.conv_out, colours, gain=2.0)
    last = moment_layer(vae)
    half = last.out_channels // 2
    last.weight[half:].mul_(0.1)
    last.bias[half:].fill_(logvar)


def moment_layer(vae: nn.Module) -> Conv:
    """The convolution whose output are the moments."""
    if isinstance(vae.quant_conv, (nn.Conv2d, nn.Conv3d)):
        return vae.quant_conv
    return vae.encoder.conv_out


def _start_convolution(name: str, conv: Conv) -> None:
    """Zero the end of a residual branch; make samplers, shortcuts and 1 x 1 ends the identity."""
    if name.endswith("conv2"):
        conv.weight.zero_()
        conv.bias.zero_()
    elif "downsamplers" in name:
        _fill(conv, _identity(conv), span=2)
    elif "upsamplers" in name or "shortcut" in name or "quant_conv" in name:
        _fill(conv, _identity(conv), span=1)


def _pass(conv: Conv, channels: int, *, gain: float = 1.0) -> None:
    """Let the first channels go through unchanged; the others keep their random kernels."""
    channels = min(channels, conv.in_channels, conv.out_channels)
    kernel = torch.zeros_like(conv.weight[:channels])
    kernel[(..., *_centre(conv))] = gain * torch.eye(channels, conv.in_channels)
    conv.weight[:channels] = kernel
    conv.bias[:channels] = 0.0


def _hold_reference(conv: Conv, first: int) -> None:
    """Give the two channels after the colours a constant value, positive and negative."""
    if conv.out_channels < first + 2:
        return
    for channel, sign in ((first, 1.0), (first + 1, -1.0)):
        conv.weight[channel].zero_()
        conv.bias[channel] = sign * REFERENCE


def _fill(conv: Conv, matrix: Tensor, *, span: int) -> None:
    """Set the kernel to `matrix` (out, in), averaged over `span` x `span` pixels, of the present frame."""
    conv.weight.zero_()
    conv.bias.zero_()
    if span == 1:
        conv.weight[(..., *_centre(conv))] = matrix
        return
    for row in range(span):
        for column in range(span):
            conv.weight[(..., *_present(conv), row, column)] = matrix / span**2


def _identity(conv: Conv) -> Tensor:
    return torch.eye(conv.out_channels, conv.in_channels)


def _centre(conv: Conv) -> tuple[int, ...]:
    """Index of the tap at the output's own place: of the last frame in time, causal as they are."""
    return (*_present(conv), conv.kernel_size[-2] // 2, conv.kernel_size[-1] // 2)


def _present(conv: Conv) -> tuple[int, ...]:
    return (conv.kernel_size[0] - 1,) if isinstance(conv, nn.Conv3d) else ()
