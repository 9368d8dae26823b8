# SPDX-License-Identifier: Apache-2.0
"""Samples are shown as what was drawn: pictures, and videos that move."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from diffnext.utils.export_utils import export_to_image, export_to_video
from diffnext.utils.writers import TensorBoardWriter


def test_tensorboard_shows_pictures_and_videos(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    levels = np.array([40, 120, 200], np.uint8)
    video = np.broadcast_to(levels[:, None, None, None], (3, 32, 32, 3))
    picture = export_to_image(video[1], str(tmp_path / "00000.png"))
    moving = export_to_video(video, str(tmp_path / "00001.mp4"), fps=10)
    files = [(tmp_path / "00000.png", "grey"), (tmp_path / "00001.mp4", "brighter")]
    writer = TensorBoardWriter(tmp_path / "events")
    for step in (5, 10):
        writer.show(step, files)
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    tags = ["samples/00000 grey", "samples/00001 brighter"]
    assert sorted(events.Tags()["images"]) == tags
    assert [event.step for event in events.Images(tags[0])] == [5, 10]
    assert events.Images(tags[0])[0].encoded_image_string == open(picture, "rb").read()
    shown = Image.open(io.BytesIO(events.Images(tags[1])[0].encoded_image_string))
    assert shown.info["duration"] == 100, moving
    frames = [np.asarray(f.convert("RGB")).mean() for f in ImageSequence.Iterator(shown)]
    np.testing.assert_allclose(frames, levels, atol=5)
