# SPDX-License-Identifier: Apache-2.0
"""Train NOVA to make pictures from text."""

from __future__ import annotations

from diffnext.pipelines.families import PIPELINES
from diffnext.pipelines.nova.train_nova import NOVATrainPipeline


@PIPELINES.register("nova_train_t2i")
class NOVATrainT2IPipeline(NOVATrainPipeline):
    """Text to image. With one frame, what tells frames apart carries no gradient."""

    reads = ("moments", "caption")
    frozen = (
        "text_embed.norm",
        "motion_embed",
        "video_pos_embed",
        "video_encoder.patch_embed",
        "video_encoder.mixer",
    )
