# SPDX-License-Identifier: Apache-2.0
"""What is written to a file is what another reader finds in it."""

import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from diffnext.utils import export_to_image, export_to_video


def clip(frames=7, height=48, width=64):
    """A white bar that moves two pixels a frame over a slope of blue."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    video[..., 2] = np.linspace(0, 200, width).astype(np.uint8)
    for i, frame in enumerate(video):
        frame[:, 10 + 2 * i : 20 + 2 * i] = 255
    return video


def test_a_png_holds_the_pixels_exactly(tmp_path):
    frame = clip()[0]
    path = export_to_image(frame, tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(path)), frame)


@pytest.mark.parametrize("height", [48, 47])
@pytest.mark.parametrize("fps", [12, 23.976])
def test_an_mp4_holds_the_frames_in_order_at_their_rate(tmp_path, height, fps):
    video = clip(height=height)
    path = export_to_video(list(video), tmp_path / "a.mp4", fps=fps)
    with av.open(path) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(fps, rel=1e-4)
        read = [frame.to_ndarray(format="rgb24")[:height] for frame in container.decode(video=0)]
    assert len(read) == len(video)
    for one, other in zip(read, video, strict=True):  # coded with loss, colours at half size
        assert np.abs(one.astype(int) - other).mean() < 6


def test_a_gif_holds_the_frames_in_order(tmp_path):
    video = clip()
    path = export_to_video(video, tmp_path / "a.gif", fps=10)
    picture = Image.open(path)
    assert picture.info["duration"] == 100
    read = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
    assert len(read) == len(video)
    for one, other in zip(read, video, strict=True):  # 256 colours
        assert np.abs(one.astype(int) - other).mean() < 6


def test_without_a_path_there_is_a_new_file():
    assert export_to_image(clip()[0]).endswith(".png")
    assert export_to_video(clip()).endswith(".mp4")


@pytest.mark.parametrize(
    ("frames", "path", "said"),
    [
        (clip(), "a.avi", "'.avi'; .mp4 or .gif"),
        (clip() / 255.0, "a.mp4", "frame 0 is float64"),
        ([], "a.mp4", "frames of shapes"),
        ([clip()[0], clip()[0, :8]], "a.mp4", "(8, 64, 3)"),
    ],
)
def test_an_error_says_what_was_found(tmp_path, frames, path, said):
    with pytest.raises(ValueError, match="wanted") as error:
        export_to_video(frames, tmp_path / path)
    assert said in str(error.value)


def test_the_package_is_light():
    code = (
        "import sys, diffnext.utils; print([m for m in ('PIL', 'numpy', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
