# SPDX-License-Identifier: Apache-2.0
"""Pictures to tensors and back."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffnext.image_processor import VaeImageProcessor

PROCESSOR = VaeImageProcessor()


def picture(height=6, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_every_value_of_a_pixel_comes_back():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    tensor = PROCESSOR.preprocess(values)
    assert tensor.min() == -1 and tensor.max() == 1
    back = PROCESSOR.postprocess(tensor, "np")[0]
    assert abs(back.astype(int) - values).max() <= 1  # rounded down


def test_kinds_of_pictures_give_the_same_tensor():
    array = picture()
    wanted = torch.from_numpy(array).permute(2, 0, 1)[None] / 127.5 - 1
    for images in (array, Image.fromarray(array), [array], array[None], [Image.fromarray(array)]):
        torch.testing.assert_close(PROCESSOR.preprocess(images), wanted)


def test_pictures_of_every_mode_look_as_in_a_cache():
    deep = Image.fromarray(np.array([[0, 257 * 51, 65535]], np.uint16))  # 0, 51, 255 times 257
    clear = Image.new("RGBA", (3, 1), (255, 0, 0, 0))  # red that is not seen
    clear.putpixel((0, 0), (0, 51, 255, 255))
    found = PROCESSOR.preprocess([deep, clear])
    assert found[0, :, 0].T.tolist() == [[-1] * 3, pytest.approx([-0.6] * 3), [1] * 3]
    assert found[1, :, 0].T.tolist() == [pytest.approx([-1, -0.6, 1]), [1] * 3, [1] * 3]


def test_a_picture_of_another_shape_is_covered_and_cropped_at_the_centre():
    array = np.zeros((20, 60, 3), np.uint8)
    array[:, 20:40] = 255  # the middle third
    tensor = PROCESSOR.preprocess(array, size=(10, 10))
    assert tensor.shape == (1, 3, 10, 10)
    assert tensor[..., 1:-1].min() > 0.8


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (picture() / 255.0, "float64"),
        (picture()[..., :1], r"\(6, 8, 1\)"),
        ([picture(), picture(4, 4)], "pass `size`"),
    ],
)
def test_what_is_no_picture_is_refused(images, said):
    with pytest.raises(ValueError, match=said):
        PROCESSOR.preprocess(images)


def test_outputs_of_every_type_show_the_same():
    pixels = torch.rand(2, 3, 6, 8) * 2.4 - 1.2
    assert PROCESSOR.postprocess(pixels, "pt") is pixels
    arrays = PROCESSOR.postprocess(pixels, "np")
    wanted = np.floor(np.clip(pixels.numpy() * 127.5 + 127.5, 0, 255)).transpose(0, 2, 3, 1)
    assert np.array_equal(arrays, wanted)
    for image, array in zip(PROCESSOR.postprocess(pixels, "pil"), arrays, strict=True):
        assert np.array_equal(np.asarray(image), array)


def test_a_video_is_an_array_of_frames():
    pixels = torch.rand(1, 3, 5, 6, 8) * 2 - 1
    video = PROCESSOR.postprocess(pixels, "pil")
    assert np.array_equal(video[0, 2], PROCESSOR.postprocess(pixels[:, :, 2], "np")[0])


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="'jpg'; one of"):
        PROCESSOR.postprocess(torch.zeros(1, 3, 2, 2), "jpg")
