# SPDX-License-Identifier: Apache-2.0
"""Between pixels as people store them and the numbers that autoencoders take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diffnext.utils.pictures import to_rgb

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class VaeImageProcessor:
    """Turns pictures into tensors in [-1, 1], and tensors into pictures or arrays of uint8."""

    def preprocess(
        self,
        images: Image.Image | np.ndarray | Sequence[Image.Image | np.ndarray],
        *,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Pictures as a tensor (B, 3, H, W) float32 in [-1, 1].

        Args:
            images: a Pillow picture, an array (H, W, 3) uint8, or several of these in a sequence or
                an array (B, H, W, 3).
            size: (H, W) in pixels. Pictures of another size are scaled to cover it, then cropped
                at the centre.

        Raises:
            ValueError: an array of another shape or type, or pictures of several sizes.
        """
        arrays = [_fit(picture, size) for picture in _pictures(images)]
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) != 1:
            raise ValueError(f"images have shapes {shapes}; pass `size` to make them one")
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)  # (B, 3, H, W)
        return pixels.float() / 127.5 - 1

    def postprocess(
        self, pixels: Tensor, output_type: str = "pil"
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """Pictures (B, 3, H, W) or videos (B, 3, T, H, W) in [-1, 1] as the type asked for.

        Args:
            pixels: what an autoencoder decoded.
            output_type: "pil", a list of pictures, for videos the same as "np"; "np", uint8
                (B, [T,] H, W, 3); "pt" or "latent", the tensor as it is.
        """
        check_output_type(output_type)
        if output_type in ("pt", "latent"):
            return pixels
        arrays = self.to_uint8(pixels)
        if output_type == "np" or arrays.ndim == 5:
            return arrays
        return [Image.fromarray(array) for array in arrays]

    @staticmethod
    def to_uint8(pixels: Tensor) -> np.ndarray:
        """(B, 3, [T,] H, W) in [-1, 1] to uint8 (B, [T,] H, W, 3), rounded down."""
        channels_last = pixels.movedim(1, -1).float()
        return (channels_last * 127.5 + 127.5).clamp(0, 255).to(torch.uint8).cpu().numpy()


def check_output_type(output_type: str) -> None:
    """Raise ValueError unless pipelines know `output_type`."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is {output_type!r}; one of {OUTPUT_TYPES} is wanted")


def _pictures(
    images: Image.Image | np.ndarray | Sequence[Image.Image | np.ndarray],
) -> list[Image.Image]:
    """RGB pictures, upright; transparent pixels over white, 16 bits over their whole range."""
    if isinstance(images, Image.Image):
        images = [images]
    if isinstance(images, np.ndarray) and images.ndim == 3:
        images = [images]
    pictures = []
    for i, image in enumerate(images):
        if not isinstance(image, Image.Image):
            image = _from_array(np.asarray(image), i)
        pictures.append(to_rgb(ImageOps.exif_transpose(image)))
    return pictures


def _from_array(array: np.ndarray, index: int) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"image {index} is {array.dtype} {array.shape}; uint8 (height, width, 3) is wanted"
        )
    return Image.fromarray(array)


def _fit(picture: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    if size is not None and (picture.height, picture.width) != tuple(size):
        picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS)
    return np.array(picture)
