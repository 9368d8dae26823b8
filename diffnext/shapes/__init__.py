# SPDX-License-Identifier: Apache-2.0
"""The shapes world: captioned pictures and videos made by rule, and a judge that reads them from pixels."""

from diffnext.shapes.captions import caption, parse_prompt, short_caption
from diffnext.shapes.draw import draw, draw_video
from diffnext.shapes.world import ATTRIBUTES, VALUES, Scene, is_heldout, random_scene, realise

__all__ = [
    "ATTRIBUTES",
    "VALUES",
    "Scene",
    "caption",
    "draw",
    "draw_video",
    "is_heldout",
    "parse_prompt",
    "random_scene",
    "realise",
    "short_caption",
]
