# SPDX-License-Identifier: Apache-2.0
"""Train NOVA to make videos from text."""

from __future__ import annotations

from diffnext.pipelines.families import PIPELINES
from diffnext.pipelines.nova.train_nova import NOVATrainPipeline


@PIPELINES.register("nova_train_t2v")
class NOVATrainT2VPipeline(NOVATrainPipeline):
    """Text to video."""

    reads = ("moments", "caption")
    frozen = ("text_embed.norm", "motion_embed")
