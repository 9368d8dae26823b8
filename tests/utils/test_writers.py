# SPDX-License-Identifier: Apache-2.0
"""Samples are shown as what was drawn: pictures, and videos that move."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from diffnext.utils.export_utils import export_to_image, export_to_video
from diffnext.utils.metrics import read_rows
from diffnext.utils.writers import JsonlWriter, TensorBoardWriter


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


def test_rows_wait_for_a_disk_that_is_full(tmp_path, caplog):
    resource = pytest.importorskip("resource")
    writer = JsonlWriter(tmp_path / "rows.jsonl")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))  # in the middle of the second row
    try:
        writer.write([{"step": 1, "loss": 0.5}])
        writer.write([{"step": 2, "loss": 0.25}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "21 bytes" in caplog.text and "[Errno 27] File too large" in caplog.text
    writer.write([{"step": 3, "loss": 0.125}])
    writer.close()
    rows = read_rows(tmp_path / "rows.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.5), (2, 0.25), (3, 0.125)]
