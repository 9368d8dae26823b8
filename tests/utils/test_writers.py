# SPDX-License-Identifier: Apache-2.0
"""Samples are shown as what was drawn: pictures, and videos that move."""

import io
from contextlib import contextmanager

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


@contextmanager
def full_disk(size):
    """Within, no file grows beyond `size` bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # its writer's end
def test_curves_wait_for_a_disk_that_is_full(tmp_path, caplog):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    picture = export_to_image(np.zeros((1, 32, 32, 3), np.uint8)[0], str(tmp_path / "00000.png"))
    writer = TensorBoardWriter(tmp_path / "events")
    writer.write([{"step": 1, "loss": 1.0}])
    with full_disk(60):
        for step in (2, 3, 4):
            writer.write([{"step": step, "loss": 1 / step}])
        with pytest.raises(OSError, match="Errno 27"):  # which the hook makes a warning of
            writer.show(4, [(tmp_path / "00000.png", "black")])
    assert "3 rows wait for TensorBoard: [Errno 27] File too large" in caplog.text, picture
    writer.write([{"step": 5, "loss": 0.2}])
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path / "events")).Reload().Scalars("loss")
    assert {event.step for event in events} == {1, 2, 3, 4, 5}


def test_rows_wait_for_a_disk_that_is_full(tmp_path, caplog):
    writer = JsonlWriter(tmp_path / "rows.jsonl")
    with full_disk(30):  # in the middle of the second row
        writer.write([{"step": 1, "loss": 0.5}])
        writer.write([{"step": 2, "loss": 0.25}])
    assert "21 bytes" in caplog.text and "[Errno 27] File too large" in caplog.text
    writer.write([{"step": 3, "loss": 0.125}])
    writer.close()
    rows = read_rows(tmp_path / "rows.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.5), (2, 0.25), (3, 0.125)]
