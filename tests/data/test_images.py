# SPDX-License-Identifier: Apache-2.0
"""Pictures of every mode against colours that are known by construction."""

import numpy as np
import PIL.Image
import pytest

from diffnext.data import images
from diffnext.data.location import Cell, Fetched, kind_of

RED = (255, 0, 0)


def saved(tmp_path, image, name="picture.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return str(path)


def pixel(path):
    image = images.load(path)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def test_transparency_is_laid_over_white(tmp_path):
    image = PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    # 255 * (1 - 128 / 255) = 127 of white shows through
    assert pixel(saved(tmp_path, image)) == (255, 127, 127)


def test_grey_with_alpha_is_laid_over_white(tmp_path):
    assert pixel(saved(tmp_path, PIL.Image.new("LA", (4, 4), (0, 0)))) == (255, 255, 255)
    assert pixel(saved(tmp_path, PIL.Image.new("LA", (4, 4), (7, 255)))) == (7, 7, 7)


def test_palette_with_and_without_a_transparent_colour(tmp_path):
    image = PIL.Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert pixel(saved(tmp_path, image)) == RED
    assert pixel(saved(tmp_path, image, transparency=1)) == (255, 255, 255)


def test_transparent_colour_of_an_rgb_png(tmp_path):
    path = saved(tmp_path, PIL.Image.new("RGB", (4, 4), RED), transparency=RED)
    assert pixel(path) == (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [
        ("a.jpe", "JPEG", False),
        ("a.mpo", "MPO", True),
        ("a.apng", "PNG", True),
        ("a.dib", "DIB", False),
        ("a.j2k", "JPEG2000", False),
    ],
)
def test_rarer_names_of_known_kinds(tmp_path, name, kind, more):
    others = {"save_all": True, "append_images": [PIL.Image.new("RGB", (6, 4))]} if more else {}
    path = saved(tmp_path, PIL.Image.new("RGB", (6, 4), RED), name, format=kind, **others)
    assert kind_of(path) == "image" and images.size(path) == (4, 6)
    np.testing.assert_allclose(pixel(path), RED, atol=3)  # of compression


def test_grey_and_one_bit(tmp_path):
    assert pixel(saved(tmp_path, PIL.Image.new("L", (4, 4), 77))) == (77, 77, 77)
    assert pixel(saved(tmp_path, PIL.Image.new("1", (4, 4), 1))) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)  # 0, 1, 128, 255 times 257
    path = saved(tmp_path, PIL.Image.fromarray(values), f"wide.{suffix}")
    assert np.asarray(images.load(path))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_numbers_without_an_agreed_range_are_refused(tmp_path):
    path = saved(tmp_path, PIL.Image.fromarray(np.full((2, 2), 70000, np.int32)), "wide.tiff")
    with pytest.raises(ValueError, match=r"70000.*save it with 8 or 16 bits"):
        images.load(path)


def test_floating_point_counts_from_0_to_1(tmp_path):
    path = saved(tmp_path, PIL.Image.fromarray(np.full((2, 2), 0.5, np.float32)), "float.tiff")
    assert pixel(path) == (128, 128, 128)


def test_cmyk(tmp_path):
    path = saved(tmp_path, PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "print.jpg", quality=95)
    np.testing.assert_allclose(pixel(path), RED, atol=3)  # jpeg


def test_animation_gives_its_first_frame(tmp_path):
    frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    path = saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert pixel(path) == RED


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, name):
    """The corner that EXIF calls top left comes out top left, for all eight values."""
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:20, :30] = RED
    stored = {  # the inverse of what a viewer does for each value
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[images.ORIENTATION] = orientation
    path = saved(tmp_path, PIL.Image.fromarray(np.ascontiguousarray(stored)), name, exif=exif)
    assert images.size(path) == (40, 60)
    np.testing.assert_array_equal(np.asarray(images.load(path)), upright)


def test_what_is_no_picture_is_named_wherever_it_lies():
    """Like failures are counted as one, and the ledger says the same twice."""
    place = Cell("a.parquet", "image", 3, "image")
    with pytest.raises(OSError, match=r"^cannot identify image file 'a\.parquet/image\[3\]'$"):
        images.size(Fetched(place, b"no picture"))


def test_damaged_files_raise(tmp_path):
    whole = saved(tmp_path, PIL.Image.effect_noise((64, 64), 50))
    torn = tmp_path / "torn.png"
    torn.write_bytes(open(whole, "rb").read()[:1500])
    with pytest.raises((OSError, ValueError)):
        images.load(str(torn))
    with pytest.raises(OSError):
        images.size(str(tmp_path / "missing.png"))
