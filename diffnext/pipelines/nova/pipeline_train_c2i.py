# SPDX-License-Identifier: Apache-2.0
"""Train NOVA to make pictures of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from diffnext.data.schema import Batch
from diffnext.pipelines.families import PIPELINES
from diffnext.pipelines.nova.train_nova import NOVATrainPipeline


@PIPELINES.register("nova_train_c2i")
class NOVATrainC2IPipeline(NOVATrainPipeline):
    """Class to image."""

    reads = ("moments", "label")
    frozen = (
        "label_embed.norm",
        "video_pos_embed",
        "video_encoder.patch_embed",
        "video_encoder.mixer",
    )

    def conditions(self, batch: Batch, dropped: Tensor) -> dict[str, Tensor]:
        if batch.labels is None:
            raise ValueError(
                f"records {batch.index.tolist()} have no label; {type(self).__name__} needs an "
                "integer field 'label' in each record"
            )
        absent = self.transformer.label_embed.num_classes
        if batch.labels.device.type == "cpu":  # elsewhere the host would wait for the answer
            _check_classes(batch, absent)
        labels = batch.labels.to(dropped.device, non_blocking=True)
        return {"labels": torch.where(dropped, absent, labels)}


def _check_classes(batch: Batch, count: int) -> None:
    wrong = (batch.labels < 0) | (batch.labels >= count)
    if wrong.any():
        raise ValueError(
            f"records {batch.index[wrong].tolist()} have labels {batch.labels[wrong].tolist()}; "
            f"0 to {count - 1} are wanted"
        )
