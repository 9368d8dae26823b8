# SPDX-License-Identifier: Apache-2.0
"""The shapes world: captioned pictures and videos by rule, and their judge."""

from diffnext.shapes.captions import caption, parse_prompt, short_caption
from diffnext.shapes.draw import draw, draw_video
from diffnext.shapes.score import aggregate, diversity, judge, score
from diffnext.shapes.see import Seen, see
from diffnext.shapes.world import ATTRIBUTES, VALUES, Scene, is_heldout, random_scene, realise

__all__ = [
    "ATTRIBUTES",
    "VALUES",
    "Scene",
    "Seen",
    "aggregate",
    "caption",
    "diversity",
    "draw",
    "draw_video",
    "is_heldout",
    "judge",
    "parse_prompt",
    "random_scene",
    "realise",
    "score",
    "see",
    "short_caption",
]
