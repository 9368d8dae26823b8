# SPDX-License-Identifier: Apache-2.0
"""Pictures of any mode as 8-bit RGB: the same for what is cached and for what a video begins with."""

from __future__ import annotations

import numpy as np
import PIL.Image

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
WHITE = (255, 255, 255, 255)


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert a picture of any mode to RGB.

    Transparent pixels are laid over white; 16 bits are scaled to 8 over their whole range.

    Raises:
        ValueError: it has no agreed way to 8 bits.
    """
    if image.mode in SIXTEEN_BITS or image.mode in ("I", "F"):
        return _from_wide(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        backdrop = PIL.Image.new("RGBA", image.size, WHITE)
        return PIL.Image.alpha_composite(backdrop, image).convert("RGB")
    return image.convert("RGB")


def _from_wide(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scale one channel of more than 8 bits: integers by 65535, floating point numbers by 1."""
    pixels = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= top):
        raise ValueError(
            f"a picture of mode {image.mode} with values from {pixels.min():g} to {pixels.max():g}; "
            f"0 to {top:g} are known; save it with 8 or 16 bits"
        )
    return PIL.Image.fromarray((pixels * (255.0 / top) + 0.5).astype(np.uint8), mode="L")
