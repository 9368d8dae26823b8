# SPDX-License-Identifier: Apache-2.0
"""The networks that the benchmarks measure: the published sizes, with random weights."""

from __future__ import annotations

from diffnext.models.transformers.transformer_nova import NOVATransformer3DModel

ARCHS = {
    "d48w768": ("vit_d16w768", "vit_d32w768", "mlp_d3w1280"),
    "d48w1024": ("vit_d16w1024", "vit_d32w1024", "mlp_d6w1024"),
    "d48w1536": ("vit_d16w1536", "vit_d32w1536", "mlp_d6w1536"),
    "small": ("vit_d2w64", "vit_d2w64", "mlp_d2w64"),
}


def network(
    model: str, *, size: tuple[int, int], tokens: int, frames: int = 1
) -> NOVATransformer3DModel:
    """A network of texts to pictures, or to videos.

    Args:
        model: one of ARCHS.
        size: (height, width) of the pictures, pixels.
        tokens: of a prompt.
        frames: of the latents; more than one are a video.
    """
    height, width = size[0] // 16, size[1] // 16
    return NOVATransformer3DModel(
        image_size=size,
        text_token_len=tokens,
        image_base_size=(height, width),
        video_base_size=(frames, height // 2, width // 2),
        arch=ARCHS[model],
    )
