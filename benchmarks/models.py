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


def text_to_image(model: str, *, pixels: int, tokens: int) -> NOVATransformer3DModel:
    """A text-to-image network.

    Args:
        model: one of ARCHS.
        pixels: side of the pictures.
        tokens: of a prompt.
    """
    side = pixels // 16
    return NOVATransformer3DModel(
        image_size=pixels,
        text_token_len=tokens,
        image_base_size=(side, side),
        video_base_size=(1, side // 2, side // 2),
        arch=ARCHS[model],
    )
