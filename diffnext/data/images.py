# SPDX-License-Identifier: Apache-2.0
"""Pictures of every kind that Pillow opens, as upright 8-bit RGB."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.TiffImagePlugin

from diffnext.data.location import Location, of_path
from diffnext.utils.pictures import to_rgb

IMAGE_WIDTH, IMAGE_LENGTH = 0x0100, 0x0101  # tags of TIFF
ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 swap height and width


def size(where: Location | str) -> tuple[int, int]:
    """Height and width in pixels as shown, from the head of the file alone.

    Raises:
        OSError, ValueError: not a picture, or one of more pixels than Pillow deems safe (179 million).
    """
    with _opened(where) as image:
        width, height = _stored_size(image)
        exif = PIL.Image.Image.getexif(image)  # that of PNG would decode the pixels
        turned = exif.get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def load(where: Location | str) -> PIL.Image.Image:
    """Decode a picture: the first frame, upright, in mode RGB.

    Transparent pixels are laid over white. 16 bits are scaled to 8 over their whole range, so that
    65535 is white. Colour profiles are not applied.

    Raises:
        OSError, ValueError: a file that is damaged, or that has no agreed way to 8 bits.
    """
    with _opened(where) as image:
        image.load()
        return to_rgb(PIL.ImageOps.exif_transpose(image))


def _stored_size(image: PIL.Image.Image) -> tuple[int, int]:
    """Width and height before the picture is turned; Pillow says those of a turned TIFF after it."""
    if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
        return image.tag_v2[IMAGE_WIDTH], image.tag_v2[IMAGE_LENGTH]
    return image.size


@contextlib.contextmanager
def _opened(where: Location | str) -> Iterator[PIL.Image.Image]:
    """Open a picture; the many kinds of errors that damaged files lead to become ValueErrors."""
    location = of_path(where) if isinstance(where, str) else where
    handle = location.handle()
    try:
        with PIL.Image.open(handle) as image:
            yield image
    except PIL.UnidentifiedImageError as error:  # it names the object that it was given
        raise PIL.UnidentifiedImageError(f"cannot identify image file {str(where)!r}") from error
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{location}: {error}") from error
    finally:
        if not isinstance(handle, str):
            handle.close()


def resize(image: PIL.Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Resize an RGB picture to (height, width) with Lanczos filtering. Returns (H, W, 3) uint8."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), PIL.Image.Resampling.LANCZOS)
    return np.asarray(image)
